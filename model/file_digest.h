// The digest of a package's files.
#ifndef OCTET_MODEL_FILE_DIGEST_H_
#define OCTET_MODEL_FILE_DIGEST_H_

#include <cstdint>
#include <string>

#include "core/sha256.h"

namespace octet {

// core/sha256.h's TreeSha256 with its leaves spread over `threads`.
Digest ParallelTreeSha256(const uint8_t* data, uint64_t bytes, int threads);

}  // namespace octet

#endif  // OCTET_MODEL_FILE_DIGEST_H_
