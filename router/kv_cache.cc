#include "router/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace octet {

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const ModelConfig& config, DType dtype,
                                                         uint64_t bytes) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kI8) {
    return absl::InvalidArgumentError("kv_dtype: the cache holds f32, f16 or int8");
  }
  std::unique_ptr<KvCache> cache(new KvCache());
  cache->layer_bytes_ = KvBlockLayerBytes(dtype, config.kv_heads, config.head_dim);
  cache->block_bytes_ = cache->layer_bytes_ * config.layers;
  cache->blocks_ = bytes / cache->block_bytes_;
  if (cache->blocks_ == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("kv_cache_bytes: ", bytes, " is less than one block of ", kKvBlockPositions,
                     " positions, which takes ", cache->block_bytes_, " bytes for this model"));
  }
  // Block numbers are 32 bits wide, and the last one stands for none.
  cache->blocks_ = std::min<size_t>(cache->blocks_, UINT32_MAX - 1);
  cache->mapped_bytes_ = cache->bytes();
  void* memory = mmap(nullptr, cache->mapped_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    cache->mapped_bytes_ = 0;
    return absl::ResourceExhaustedError(
        absl::StrCat("kv_cache_bytes: cannot map ", bytes, " bytes"));
  }
  // Advice only: without huge pages the cache works, with more misses of the TLB.
  (void)madvise(memory, cache->mapped_bytes_, MADV_HUGEPAGE);
  cache->data_ = static_cast<uint8_t*>(memory);
  cache->shape_.block_stride_bytes = cache->block_bytes_;
  cache->shape_.dtype = dtype;
  cache->shape_.kv_heads = config.kv_heads;
  cache->shape_.head_dim = config.head_dim;
  return cache;
}

KvCache::~KvCache() {
  if (data_ != nullptr) munmap(data_, mapped_bytes_);
}

KvLayer KvCache::layer(LayerId layer) const {
  KvLayer view = shape_;
  view.data = data_ + layer.value() * layer_bytes_;
  return view;
}

}  // namespace octet
