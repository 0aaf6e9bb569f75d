// Full blocks of the KV cache as files of one directory: what a router has computed, for itself
// after a restart and for other routers of the same model. On a tmpfs it is memory that several
// routers of a host share, on a disk it lasts. docs/prefix-cache.md describes it for users.
#ifndef OCTET_ROUTER_KV_TIER_H_
#define OCTET_ROUTER_KV_TIER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "router/kv_tier_block.h"

namespace octet {

// The bytes of a block that was read, which copies share. They count against kKvTierStagedBytesMax
// while the last copy lives.
class StagedBlock {
 public:
  StagedBlock(std::vector<uint8_t> bytes, std::shared_ptr<std::atomic<uint64_t>> held);
  const std::vector<uint8_t>& bytes() const { return *bytes_; }

 private:
  std::shared_ptr<const std::vector<uint8_t>> bytes_;
};

struct KvTierOptions {
  std::string directory;  // made where it is not there, mode 0700
  uint64_t bytes_max = 0;
  size_t block_bytes = 0;
};

struct KvTierStats {
  uint64_t written = 0;
  uint64_t read = 0;
  uint64_t dropped = 0;  // not written: the queue was full, or writing had failed
  uint64_t damaged = 0;  // files that were no such block, deleted
  bool disabled = false;
};

// Files are written under another name and renamed, mode 0600, and carry checksums: whatever a
// writer that dies, a full disk or a bad one leaves is not taken for a block. When a write fails
// the tier writes nothing more; what is there is still read. Thread-safe; Store and Fetch do not
// wait for files.
class KvTier {
 public:
  // Called on the tier's thread, once for each Fetch, also when the tier is destroyed.
  using FetchFn = std::function<void(std::vector<StagedBlock> blocks)>;

  // INVALID_ARGUMENT or UNAVAILABLE, naming `kv_tier_dir`, where the directory can't be made or
  // written.
  static absl::StatusOr<std::unique_ptr<KvTier>> Open(const KvTierOptions& options);
  // Writes what is queued.
  ~KvTier();
  KvTier(const KvTier&) = delete;
  KvTier& operator=(const KvTier&) = delete;

  // Copies `block_bytes` at `data`.
  void Store(KvTierKey key, const uint8_t* data);
  // Deletes all blocks of this model that are there, and writes none that Store was given before.
  void Clear();
  // The longest beginning of `keys` that is there.
  void Fetch(std::vector<KvTierKey> keys, FetchFn done);
  KvTierStats stats() const;

 private:
  struct Impl;
  explicit KvTier(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_KV_TIER_H_
