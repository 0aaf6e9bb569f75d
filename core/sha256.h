// SHA-256 of memory (OpenSSL underneath) and the digest tree over large files.
#ifndef OCTET_CORE_SHA256_H_
#define OCTET_CORE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace octet {

using Digest = std::array<uint8_t, 32>;

Digest Sha256(absl::string_view bytes);
// Lower-case hexadecimal, 64 characters.
std::string DigestHex(const Digest& digest);
// False where `hex` is not 64 hexadecimal characters.
bool DigestFromHex(absl::string_view hex, Digest* digest);

// Root of a two-level tree: SHA-256 over the concatenated SHA-256 of each kDigestLeafBytes piece,
// the last one shorter. Leaves are independent, so a loader checks them in parallel.
Digest TreeDigest(const std::array<uint8_t, 32>* leaves, size_t count);
Digest TreeSha256(const uint8_t* data, size_t bytes);
// The same with `after_leaf` called after each piece; empty as soon as that returns false.
std::optional<Digest> TreeSha256(const uint8_t* data, size_t bytes,
                                 absl::FunctionRef<bool()> after_leaf);

// Incremental SHA-256.
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  void Update(const void* data, size_t bytes);
  // Ends the stream; call once.
  Digest Finish();
  // Ends this stream and begins the next. Allocates nothing.
  Digest FinishAndRestart();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octet

#endif  // OCTET_CORE_SHA256_H_
