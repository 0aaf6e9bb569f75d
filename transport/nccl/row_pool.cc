#include "transport/nccl/row_pool.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {
namespace {

size_t ClassOf(size_t power_of_two) { return static_cast<size_t>(std::countr_zero(power_of_two)); }

}  // namespace

std::shared_ptr<RowPool> RowPool::Create(NcclApi* api, int device, uint64_t bytes_max) {
  return std::shared_ptr<RowPool>(new RowPool(api, device, bytes_max));
}

RowPool::~RowPool() {
  for (const OfSize& of_place : free_) {
    for (const std::vector<RowMemory*>& of_size : of_place) {
      for (RowMemory* memory : of_size) {
        api_->Release(memory->device);
        if (memory->host != nullptr) api_->ReleaseHost(memory->host);
        delete memory;
      }
    }
  }
}

absl::StatusOr<RowPool::Lease> RowPool::Take(size_t bytes, RowPlace place) {
  if (bytes > kNcclTransferBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("rows of ", bytes, " bytes, allowed are ", kNcclTransferBytesMax));
  }
  const size_t size = std::bit_ceil(std::max(bytes, kNcclPoolBufferBytesMin));
  {
    MutexLock lock(mu_);
    OfSize& of_place = free_[static_cast<size_t>(place)];
    std::vector<RowMemory*>& of_size = of_place[ClassOf(size)];
    if (!of_size.empty()) {
      RowMemory* const memory = of_size.back();
      of_size.pop_back();
      return Lease(memory, Giver{shared_from_this()});
    }
    if (bytes_ + size > bytes_max_) {
      // No room for another: one that is idle and larger serves as well.
      for (std::vector<RowMemory*>& larger : of_place) {
        if (larger.empty() || larger.back()->bytes < size) continue;
        RowMemory* const memory = larger.back();
        larger.pop_back();
        return Lease(memory, Giver{shared_from_this()});
      }
      return absl::ResourceExhaustedError(
          absl::StrCat("rows in flight take ", bytes_, " bytes already"));
    }
    bytes_ += size;
  }
  auto memory = Allocate(size, place);
  if (!memory.ok()) {
    MutexLock lock(mu_);
    bytes_ -= size;
    return memory.status();
  }
  return Lease(memory->release(), Giver{shared_from_this()});
}

absl::Status RowPool::Reserve(size_t bytes, size_t count, RowPlace place) {
  std::vector<Lease> taken;
  while (taken.size() < count) {
    OCTET_ASSIGN_OR_RETURN(taken.emplace_back(), Take(bytes, place));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RowMemory>> RowPool::Allocate(size_t bytes, RowPlace place) {
  OCTET_RETURN_IF_ERROR(api_->UseDevice(device_));
  auto memory = std::make_unique<RowMemory>();
  memory->bytes = bytes;
  OCTET_ASSIGN_OR_RETURN(memory->device, api_->Allocate(bytes));
  if (place == RowPlace::kDevice) return memory;
  auto host = api_->AllocateHost(bytes);
  if (!host.ok()) {
    api_->Release(memory->device);
    return host.status();
  }
  memory->host = static_cast<uint8_t*>(*host);
  return memory;
}

void RowPool::Giver::operator()(RowMemory* memory) const {
  MutexLock lock(pool->mu_);
  pool->free_[static_cast<size_t>(memory->place())][ClassOf(memory->bytes)].push_back(memory);
}

}  // namespace octet
