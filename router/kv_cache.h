// The memory of the paged cache of attention keys and values; block_pool.h says who owns which
// block.
#ifndef OCTET_ROUTER_KV_CACHE_H_
#define OCTET_ROUTER_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "core/ids.h"
#include "core/limits.h"
#include "core/model_config.h"
#include "kernels/kernels.h"

namespace octet {

// One 64-byte aligned allocation, huge pages advised, laid out block-major: [block][layer], each
// part KvBlockLayerBytes long (kernels.h has the layout inside). Contents start as zero.
class KvCache {
 public:
  // As many blocks as fit in `bytes`. RESOURCE_EXHAUSTED where not even one does, or where the
  // memory cannot be had; INVALID_ARGUMENT for a dtype other than f32, f16 and int8.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const ModelConfig& config, DType dtype,
                                                         uint64_t bytes);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  size_t blocks() const { return blocks_; }
  // Positions that one sequence can hold when it has the cache to itself.
  size_t positions() const { return blocks_ * kKvBlockPositions; }
  KvLayer layer(LayerId layer) const;
  // The whole storage.
  uint8_t* data() const { return data_; }
  // Of all layers of one block, which lie together.
  size_t block_bytes() const { return block_bytes_; }
  uint8_t* block(BlockId id) const { return data_ + id.value() * block_bytes_; }
  size_t bytes() const { return blocks_ * block_bytes_; }

 private:
  KvCache() = default;

  uint8_t* data_ = nullptr;
  size_t mapped_bytes_ = 0;
  size_t blocks_ = 0;
  size_t block_bytes_ = 0;  // all layers
  size_t layer_bytes_ = 0;
  KvLayer shape_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_KV_CACHE_H_
