// What a router may leave in the memory that it shares with a worker: each entry of the ring is
// answered once, and what is computed lies inside the memory.
// Links: octet_expert_worker
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/check.h"
#include "core/clock.h"
#include "core/crc32c.h"
#include "expert_worker/admission.h"
#include "expert_worker/shm_router.h"

namespace {

constexpr uint64_t kArenaBytes = 1 << 16;

const uint8_t* arena = nullptr;

bool InArena(const void* at, size_t bytes) {
  const auto* const begin = static_cast<const uint8_t*>(at);
  return begin >= arena && bytes <= kArenaBytes &&
         static_cast<size_t>(begin - arena) <= kArenaBytes - bytes;
}

// Two layers, one of them integer; four experts, of which the third is not held.
octet::WorkerModel TwoLayers() {
  octet::WorkerModel model;
  model.compute_digest = std::string(64, 'a');
  model.experts = 4;
  model.formats = {{8, 0, octet::ReplyDType::kF32}, {10, 4, octet::ReplyDType::kBF16}};
  model.load = [](octet::ExpertId) -> absl::StatusOr<octet::MappedExpert> {
    return octet::MappedExpert{};
  };
  return model;
}

// Reads each row from its first to its last byte and writes each result, as a kernel would.
absl::Status Compute(const octet::MappedExpert&, octet::LayerId layer,
                     const octet::ExpertInput& input, absl::Span<const uint32_t> rows,
                     octet::TensorF32 out) {
  static const octet::WorkerModel model = TwoLayers();
  const octet::WireFormat& format = model.formats[layer.value()];
  OCTET_CHECK(InArena(out.data, rows.size() * format.hidden * sizeof(float)));
  for (size_t i = 0; i < rows.size(); ++i) {
    if (format.is_integer()) {
      const int8_t* const q = input.q.q + rows[i] * format.padded_hidden();
      const float* const scales = input.q.scales + rows[i] * format.groups();
      OCTET_CHECK(InArena(q, format.padded_hidden()));
      OCTET_CHECK(InArena(scales, format.groups() * sizeof(float)));
    } else {
      OCTET_CHECK(InArena(input.f32.row(rows[i]), format.hidden * sizeof(float)));
    }
    std::fill_n(out.row(i), format.hidden, 1.0f);
  }
  return absl::OkStatus();
}

// A router and a worker in one process, which live as long as it does.
struct Pair {
  Pair()
      : store(TwoLayers()),
        shape(octet::ShapeOf(store.model())),
        loop(octet::ComputeFn(Compute), &clock, &load) {
    const octet::ExpertId held[] = {octet::ExpertId(0), octet::ExpertId(1), octet::ExpertId(3)};
    OCTET_CHECK(store.Prepare(octet::Epoch(1), held).ok());
    auto memory = octet::SharedMemory::Create("fuzz", octet::SegmentBytes(kArenaBytes));
    auto doorbell = octet::SharedMemory::Create("fuzz bell", octet::kDoorbellPageBytes);
    OCTET_CHECK(memory.ok() && doorbell.ok());
    segment = reinterpret_cast<octet::ShmSegment*>(memory->data());
    arena = octet::ArenaOf(memory->data());
    worker = std::make_unique<octet::ShmRouter>(*std::move(memory), kArenaBytes,
                                                *std::move(doorbell), &store, &shape, &loop);
  }

  const octet::SystemClock clock{};
  octet::LoadCounter load{4};
  octet::ExpertStore store;
  const octet::DispatchShape shape;
  octet::WorkerLoop loop;
  octet::ShmSegment* segment = nullptr;
  std::unique_ptr<octet::ShmRouter> worker;
};

}  // namespace

// The first byte says whether the digest (1), the places (2) and the checksum (4) are put right, so
// that what lies behind these checks is reached. Then the request's numbers, then its block.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Pair* const pair = new Pair;
  constexpr size_t kNumbers = offsetof(octet::ShmRequest, compute_digest);
  if (size < 1 + kNumbers) return 0;
  octet::ShmSegment& segment = *pair->segment;
  const uint32_t number = segment.request_head.value.load();
  octet::ShmRequest& request = segment.requests[number % octet::kShmRingEntries];
  std::memset(&request, 0, sizeof(request));
  std::memcpy(&request, data + 1, kNumbers);
  if (data[0] & 1) std::memset(request.compute_digest, 'a', sizeof(request.compute_digest));
  if (data[0] & 2) {
    request.offset = 0;
    request.reply_offset = kArenaBytes / 2;
  }
  auto* const block = const_cast<uint8_t*>(arena);
  const size_t bytes = std::min<size_t>(size - 1 - kNumbers, kArenaBytes / 2);
  std::memcpy(block, data + 1 + kNumbers, bytes);
  const auto& formats = pair->shape.formats;
  if ((data[0] & 4) && request.key.layer < formats.size() && request.row_count < 256 &&
      request.group_count < 256 && request.index_count < 256) {
    const octet::WireFormat& format = formats[request.key.layer];
    const octet::ShmBlock layout =
        octet::BlockOf(request.group_count, request.index_count, request.row_count, format);
    request.checksum = octet::Crc32c(block + layout.rows, request.row_count * format.RowBytes());
  }
  const uint32_t answered = segment.reply_head.value.load();
  segment.request_head.value.store(number + 1);
  OCTET_CHECK(pair->worker->Read());
  pair->worker->WaitIdle();
  OCTET_CHECK(segment.reply_head.value.load() == answered + 1);
  const octet::ShmReply& reply = segment.replies[answered % octet::kShmRingEntries];
  OCTET_CHECK(std::memcmp(&reply.key, data + 1, sizeof(reply.key)) == 0);
  OCTET_CHECK(reply.error == 0 || reply.message[0] != '\0');
  segment.reply_tail.value.store(answered + 1);
  return 0;
}
