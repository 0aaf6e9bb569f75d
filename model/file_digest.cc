#include "model/file_digest.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/limits.h"
#include "model/parallel.h"

namespace octet {

Digest ParallelTreeSha256(const uint8_t* data, uint64_t bytes, int threads) {
  std::vector<Digest> leaves((bytes + kDigestLeafBytes - 1) / kDigestLeafBytes);
  const absl::Status status = RunParallel(
      threads, leaves.size(),
      [&](size_t i) {
        const uint64_t begin = i * kDigestLeafBytes;
        const uint64_t length = std::min<uint64_t>(kDigestLeafBytes, bytes - begin);
        leaves[i] = Sha256(absl::string_view(reinterpret_cast<const char*>(data + begin), length));
        return absl::OkStatus();
      },
      [](size_t) {});
  OCTET_CHECK(status.ok());
  return TreeDigest(leaves.data(), leaves.size());
}

}  // namespace octet
