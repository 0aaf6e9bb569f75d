// What members may send to the coordinator, in any order: a story of messages, each decoded and
// given to the state machine. Whatever they say, epochs and terms never go back and a placement
// fits its model.
// Links: octet_coordinator_codec octet_coordinator_core
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "coordinator/cluster_codec.h"
#include "coordinator/cluster_state.h"
#include "core/check.h"
#include "core/limits.h"
#include "octet/v1/cluster.pb.h"

namespace {

constexpr size_t kMessagesMax = 64;

// The story: [kind, length low, length high, payload] again and again.
struct Entry {
  uint8_t kind = 0;
  uint16_t number = 0;
  std::string payload;
};

bool NextEntry(const uint8_t** data, size_t* size, Entry* entry) {
  if (*size < 3) return false;
  entry->kind = (*data)[0] % 7;
  entry->number = static_cast<uint16_t>((*data)[1] | (*data)[2] << 8);
  const size_t length = entry->kind < 2 ? std::min<size_t>(entry->number, *size - 3) : 0;
  entry->payload.assign(reinterpret_cast<const char*>(*data + 3), length);
  *data += 3 + length;
  *size -= 3 + length;
  return true;
}

class Story {
 public:
  void Play(const Entry& entry) {
    switch (entry.kind) {
      case 0: {
        octet::v1::RegisterRequest message;
        if (!message.ParseFromString(entry.payload)) return;
        const auto event = octet::DecodeRegister(message);
        if (event.ok()) Step(*event);
        return;
      }
      case 1: {
        octet::v1::HeartbeatRequest message;
        if (!message.ParseFromString(entry.payload)) return;
        message.set_term(state_.term());  // a wrong term ends in the first check
        const auto event = octet::DecodeHeartbeat(message);
        if (event.ok()) Step(*event);
        return;
      }
      case 2:
        Step(octet::WatchOpenedEvent{++watch_, octet::MemberId(entry.number % 8), state_.term()});
        return;
      case 3:
        Step(octet::WatchClosedEvent{entry.number % 8u});
        return;
      case 4:
        Step(octet::DrainRequestedEvent{++drain_, octet::MemberId(entry.number % 8)});
        return;
      case 5:
        Step(octet::DrainClosedEvent{entry.number % 8u});
        return;
      default:
        now_ = now_ + octet::Duration::Millis(entry.number % 5'000);
        Step(octet::TickEvent{});
    }
  }

  void End() const { octet::StatusToProto(state_.Snapshot(now_), {}); }

 private:
  void Step(const octet::ClusterEvent& event) {
    const octet::Epoch before = state_.epoch();
    const uint64_t term = state_.term();
    const octet::Actions actions = state_.Step(event, now_);
    OCTET_CHECK(state_.epoch() >= before);
    OCTET_CHECK(state_.term() >= term);
    for (const auto& action : actions) {
      const auto* sent = std::get_if<octet::SendPlacementAction>(&action);
      if (sent == nullptr || sent->placement == nullptr) continue;
      const auto snapshot = state_.Snapshot(now_);
      const auto version = std::find_if(
          snapshot.versions.begin(), snapshot.versions.end(), [&](const auto& candidate) {
            return candidate.model.compute_digest == sent->placement->compute_digest;
          });
      OCTET_CHECK(version != snapshot.versions.end());
      OCTET_CHECK(sent->placement->expert_replicas.size() == version->model.experts);
      OCTET_CHECK(sent->placement->epoch <= state_.epoch());
    }
  }

  octet::MonotonicTime now_{1'000'000'000};
  octet::ClusterState state_{octet::ClusterSettings(), std::nullopt, 1, now_};
  uint64_t watch_ = 0;
  uint64_t drain_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  Story story;
  Entry entry;
  for (size_t i = 0; i < kMessagesMax && NextEntry(&data, &size, &entry); ++i) story.Play(entry);
  story.End();
  return 0;
}
