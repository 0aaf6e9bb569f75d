#include "cli/status_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace octet {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

octet::v1::MemberStatus* AddWorker(octet::v1::StatusResponse* status, uint64_t id,
                                   const std::string& state, uint64_t rows) {
  auto* worker = status->add_workers();
  worker->set_id(id);
  worker->set_pid(static_cast<uint32_t>(100 + id));
  worker->set_state(state);
  auto* load = worker->mutable_load()->add_experts();
  load->set_expert(0);
  load->set_tokens(rows);
  return worker;
}

octet::v1::StatusResponse TwoWorkers() {
  octet::v1::StatusResponse status;
  status.set_epoch(3);
  status.set_term(1);
  status.set_ready(true);
  AddWorker(&status, 1, "ready", 1'000);
  AddWorker(&status, 2, "ready", 500);
  auto* expert = status.mutable_placement()->add_experts();
  expert->add_workers(1);
  expert->add_workers(2);
  return status;
}

TEST(StatusText, BarsShowTheShareOfTheBusiestWorker) {
  octet::v1::StatusResponse status = TwoWorkers();
  const std::string text = StatusToText(status);
  EXPECT_THAT(text, HasSubstr("every expert on 2 ready workers or more"));
  EXPECT_THAT(text, HasSubstr("########## experts"));
  EXPECT_THAT(text, HasSubstr("#####..... experts"));
  // Since the last one: now the second worker does all.
  octet::v1::StatusResponse later = status;
  later.mutable_workers(1)->mutable_load()->mutable_experts(0)->set_tokens(900);
  const std::string since = StatusToText(later, &status);
  EXPECT_THAT(since, HasSubstr(".......... experts"));
  EXPECT_THAT(since, HasSubstr("########## experts"));
}

TEST(StatusText, SpeedIsShownWhereItDiffers) {
  octet::v1::StatusResponse status = TwoWorkers();
  EXPECT_THAT(StatusToText(status), Not(HasSubstr("speed")));
  status.mutable_workers(0)->set_speed(64);
  status.mutable_workers(1)->set_speed(16);
  const std::string text = StatusToText(status);
  EXPECT_THAT(text, HasSubstr("  speed 64\n"));
  EXPECT_THAT(text, Not(HasSubstr("speed 16")));
}

TEST(StatusText, ALostWorkerIsNoReplica) {
  octet::v1::StatusResponse status = TwoWorkers();
  status.mutable_workers(0)->set_state("lost");
  EXPECT_THAT(StatusToText(status), HasSubstr("every expert on 1 ready workers or more"));
}

TEST(StatusEventsTest, NameWhoCameWentAndChanged) {
  const octet::v1::StatusResponse before = TwoWorkers();
  EXPECT_THAT(StatusEvents(before, before), IsEmpty());
  octet::v1::StatusResponse after = before;
  after.mutable_workers(0)->set_state("lost");
  after.mutable_workers()->DeleteSubrange(1, 1);
  AddWorker(&after, 7, "loading", 0);
  after.set_epoch(4);
  after.set_term(2);
  EXPECT_THAT(StatusEvents(before, after),
              ElementsAre("worker 1: ready -> lost", "worker 7: new -> loading",
                          "worker 2: ready -> gone", "epoch 3 -> 4", "coordinator: term 1 -> 2"));
}

}  // namespace
}  // namespace octet
