#include "rpc/placement_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/limits.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

Placement Sample() {
  Placement p;
  p.epoch = Epoch(7);
  p.compute_digest = std::string(64, 'a');
  p.model_version = "v1";
  p.workers = {{WorkerId(3), "h:1"}, {WorkerId(9), "h:2", kWorkerSpeedMax}};
  p.expert_replicas = {{WorkerId(9), WorkerId(3)}, {WorkerId(3)}, {}};
  return p;
}

TEST(PlacementCodec, RoundTrip) {
  const Placement p = Sample();
  const auto back = PlacementFromProto(PlacementToProto(p));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->epoch, p.epoch);
  EXPECT_EQ(back->compute_digest, p.compute_digest);
  EXPECT_EQ(back->model_version, p.model_version);
  ASSERT_EQ(back->workers.size(), 2u);
  EXPECT_EQ(back->workers[1].id, WorkerId(9));
  EXPECT_EQ(back->workers[1].address, "h:2");
  EXPECT_EQ(back->workers[0].speed, kWorkerSpeedEqual);
  EXPECT_EQ(back->workers[1].speed, kWorkerSpeedMax);
  EXPECT_EQ(back->expert_replicas, p.expert_replicas);
}

TEST(PlacementCodec, ATableOfAReleaseWithoutSpeedsIsRead) {
  auto table = PlacementToProto(Sample());
  for (auto& worker : *table.mutable_workers()) worker.clear_speed();
  const auto back = PlacementFromProto(table);
  ASSERT_TRUE(back.ok()) << back.status();
  for (const PlacedWorker& worker : back->workers) EXPECT_EQ(worker.speed, kWorkerSpeedEqual);
}

void ExpectRefused(const octet::v1::PlacementTable& table, const char* what) {
  const auto result = PlacementFromProto(table);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(what));
}

TEST(PlacementCodec, RefusesEachMalformedField) {
  const auto good = PlacementToProto(Sample());
  auto table = good;
  table.set_compute_digest("abc");
  ExpectRefused(table, "compute_digest");
  table = good;
  table.set_model_version(std::string(kModelVersionBytesMax + 1, 'x'));
  ExpectRefused(table, "model_version");
  table = good;
  table.mutable_workers(1)->set_id(3);
  ExpectRefused(table, "out of order");
  table = good;
  table.mutable_workers(0)->set_id(0);
  ExpectRefused(table, "zero");
  table = good;
  table.mutable_workers(0)->set_speed(kWorkerSpeedMax + 1);
  ExpectRefused(table, "speed 1025");
  table = good;
  table.mutable_workers(0)->clear_address();
  ExpectRefused(table, "address");
  table = good;
  table.mutable_experts(1)->set_workers(0, 4);
  ExpectRefused(table, "worker 4 is not in the table");
  table = good;
  table.mutable_experts(1)->add_workers(3);
  ExpectRefused(table, "appears twice");
  table = good;
  table.clear_experts();
  ExpectRefused(table, "experts");
  table = good;
  while (table.experts_size() <= static_cast<int>(kExpertsMax)) table.add_experts();
  ExpectRefused(table, "experts");
  table = good;
  table.clear_workers();
  while (table.workers_size() <= static_cast<int>(kWorkersMax)) table.add_workers();
  ExpectRefused(table, "workers");
}

}  // namespace
}  // namespace octet
