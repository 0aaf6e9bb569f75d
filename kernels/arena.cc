#include <algorithm>

#include "kernels/exec_context.h"

namespace octet {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kChunkBytesMin = size_t{1} << 20;

}  // namespace

void* Arena::AllocBytes(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size()) {
    Chunk& chunk = chunks_[chunk_];
    if (used_ + bytes <= chunk.bytes) {
      uint8_t* p = chunk.begin + used_;
      used_ += bytes;
      return p;
    }
    // What is left of this chunk stays unused until the scope ends.
    ++chunk_;
    used_ = 0;
  }
  size_t want = std::max(bytes, kChunkBytesMin);
  if (!chunks_.empty()) want = std::max(want, 2 * chunks_.back().bytes);
  Chunk chunk;
  chunk.storage.reset(new uint8_t[want + kAlignment]);
  const uintptr_t address = reinterpret_cast<uintptr_t>(chunk.storage.get());
  chunk.begin = chunk.storage.get() + (kAlignment - address % kAlignment) % kAlignment;
  chunk.bytes = want;
  chunks_.push_back(std::move(chunk));
  chunk_ = chunks_.size() - 1;
  used_ = bytes;
  return chunks_.back().begin;
}

Arena::Scope::Scope(Arena& arena) : arena_(arena), chunk_(arena.chunk_), used_(arena.used_) {}

Arena::Scope::~Scope() {
  // Once everything is free, several chunks become one that holds them all, so that the stack is
  // contiguous in the steps that follow.
  if (chunk_ == 0 && used_ == 0 && arena_.chunks_.size() > 1) {
    size_t total = 0;
    for (const Chunk& c : arena_.chunks_) total += c.bytes;
    arena_.chunks_.clear();
    arena_.chunk_ = 0;
    arena_.used_ = 0;
    arena_.AllocBytes(total);
  }
  arena_.chunk_ = chunk_;
  arena_.used_ = used_;
}

}  // namespace octet
