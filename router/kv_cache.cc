#include "router/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace octet {

BlockAllocator::BlockAllocator(size_t blocks) : used_(blocks, false) {
  free_.reserve(blocks);
  for (size_t b = blocks; b > 0; --b) free_.push_back(BlockId(static_cast<uint32_t>(b - 1)));
}

bool BlockAllocator::Grow(std::vector<BlockId>* table, size_t count) {
  if (table->size() >= count) return true;
  if (count - table->size() > free_.size()) return false;
  while (table->size() < count) {
    const BlockId block = free_.back();
    free_.pop_back();
    used_[block.value()] = true;
    table->push_back(block);
  }
  return true;
}

void BlockAllocator::Release(std::vector<BlockId>* table) {
  for (size_t i = table->size(); i > 0; --i) {
    const BlockId block = (*table)[i - 1];
    OCTET_CHECK(block.value() < used_.size() && used_[block.value()]) << "block released twice";
    used_[block.value()] = false;
    free_.push_back(block);
  }
  table->clear();
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const ModelConfig& config, DType dtype,
                                                         uint64_t bytes) {
  if (dtype != DType::kF32 && dtype != DType::kF16) {
    return absl::InvalidArgumentError("kv_dtype: the cache holds f32 or f16");
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
  // Block numbers are 32 bits wide.
  cache->blocks_ = std::min<size_t>(cache->blocks_, UINT32_MAX);
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
