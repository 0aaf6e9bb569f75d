// Version of the arithmetic contract of docs/numerics.md. It is part of every compute digest, so
// that processes whose results could differ in a bit never serve one request together. Raised with
// every change of the contract.
#ifndef OCTET_CORE_NUMERICS_VERSION_H_
#define OCTET_CORE_NUMERICS_VERSION_H_

#include <cstdint>

namespace octet {

inline constexpr uint32_t kNumericsVersion = 1;

}  // namespace octet

#endif  // OCTET_CORE_NUMERICS_VERSION_H_
