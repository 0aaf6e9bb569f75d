#include "client/stream_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/protobuf/util/message_differencer.h"
#include "rpc/status_details.h"

namespace octet {
namespace {

using google::protobuf::util::MessageDifferencer;

octet::v1::GenerateRequest Request() {
  octet::v1::GenerateRequest request;
  request.set_text("hello");
  request.set_prompt_logprobs(true);
  return request;
}

octet::v1::GenerateResponse Started(uint64_t seed = 7, const std::string& digest = "d") {
  octet::v1::GenerateResponse event;
  event.mutable_started()->set_request_id("r1");
  event.mutable_started()->set_seed(seed);
  event.mutable_started()->set_compute_digest(digest);
  event.mutable_started()->set_prompt_tokens(3);
  event.mutable_started()->mutable_stop()->set_max_tokens(9);
  return event;
}

octet::v1::GenerateResponse Chunk(uint32_t index, int tokens) {
  octet::v1::GenerateResponse event;
  event.mutable_chunk()->set_index(index);
  for (int i = 0; i < tokens; ++i) event.mutable_chunk()->add_token_ids(i);
  return event;
}

octet::v1::GenerateResponse Finished() {
  octet::v1::GenerateResponse event;
  event.mutable_finished()->set_reason(octet::v1::FINISH_REASON_STOP);
  return event;
}

absl::Status Accept(StreamState& state, octet::v1::GenerateResponse event, bool* deliver) {
  return state.Accept(event, deliver);
}

TEST(StreamStateTest, PromptScoresComeOnceAcrossABreakInThePrefill) {
  octet::v1::GenerateRequest request = Request();
  request.set_prompt_logprobs(true);
  StreamState state(request);
  const auto scores = [](std::initializer_list<float> values) {
    octet::v1::GenerateResponse event = Chunk(0, 0);
    for (const float v : values) event.mutable_chunk()->add_prompt_logprobs()->set_logprob(v);
    return event;
  };
  bool deliver = false;
  ASSERT_TRUE(Accept(state, Started(), &deliver).ok());
  ASSERT_TRUE(Accept(state, scores({-1, -2}), &deliver).ok());
  EXPECT_TRUE(state.NextRequest().prompt_logprobs()) << "the rest is still wanted";
  state.BeginStream();
  ASSERT_TRUE(Accept(state, Started(), &deliver).ok());
  ASSERT_TRUE(Accept(state, scores({-1}), &deliver).ok());
  EXPECT_FALSE(deliver) << "the caller has had it";
  octet::v1::GenerateResponse event = scores({-2, -3});
  ASSERT_TRUE(state.Accept(event, &deliver).ok());
  EXPECT_TRUE(deliver);
  ASSERT_EQ(event.chunk().prompt_logprobs_size(), 1);
  EXPECT_EQ(event.chunk().prompt_logprobs(0).logprob(), -3);
}

TEST(StreamStateTest, FirstRequestIsTheOriginal) {
  const StreamState state(Request());
  EXPECT_TRUE(MessageDifferencer::Equals(state.NextRequest(), Request()));
}

TEST(StreamStateTest, ResumesByIdSeedAndIndex) {
  StreamState state(Request());
  bool deliver = false;
  for (const auto& event : {Started(), Chunk(0, 2), Chunk(2, 1)}) {
    ASSERT_TRUE(Accept(state, event, &deliver).ok());
    EXPECT_TRUE(deliver);
  }
  const auto next = state.NextRequest();
  EXPECT_EQ(next.request_id(), "r1");
  EXPECT_EQ(next.sampling().seed(), 7u);
  EXPECT_EQ(next.stop().max_tokens(), 9u);
  EXPECT_EQ(next.resume_index(), 3u);
  EXPECT_FALSE(next.prompt_logprobs());
  EXPECT_EQ(next.text(), "hello");

  state.BeginStream();
  ASSERT_TRUE(Accept(state, Started(), &deliver).ok());
  EXPECT_FALSE(deliver) << "the caller has had its `started`";
  ASSERT_TRUE(Accept(state, Chunk(3, 1), &deliver).ok());
  EXPECT_TRUE(deliver);
  ASSERT_TRUE(Accept(state, Finished(), &deliver).ok());
  EXPECT_TRUE(deliver);
  EXPECT_TRUE(state.finished());
}

TEST(StreamStateTest, AResumeWithoutTokensAsksForTheStart) {
  StreamState state(Request());
  bool deliver = false;
  ASSERT_TRUE(Accept(state, Started(), &deliver).ok());
  EXPECT_EQ(state.NextRequest().resume_index(), 0u);
  EXPECT_TRUE(state.NextRequest().prompt_logprobs());
}

TEST(StreamStateTest, RefusesAnotherModelOrSeed) {
  for (const auto& other : {Started(7, "other"), Started(8, "d")}) {
    StreamState state(Request());
    bool deliver = false;
    ASSERT_TRUE(Accept(state, Started(), &deliver).ok());
    EXPECT_EQ(state.NextRequest().compute_digest(), "d");
    state.BeginStream();
    const absl::Status refused = Accept(state, other, &deliver);
    const bool version = other.started().compute_digest() != "d";
    EXPECT_EQ(IsOtherVersion(refused), version);
    if (!version) EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
  }
}

TEST(StreamStateTest, RefusesGapsRepetitionsAndDisorder) {
  bool deliver = false;
  StreamState gap(Request());
  EXPECT_EQ(Accept(gap, Chunk(0, 1), &deliver).code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Accept(gap, Started(), &deliver).ok());
  EXPECT_EQ(Accept(gap, Started(), &deliver).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Accept(gap, Chunk(1, 1), &deliver).code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Accept(gap, Chunk(0, 1), &deliver).ok());
  EXPECT_EQ(Accept(gap, Chunk(0, 1), &deliver).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(deliver);
  ASSERT_TRUE(Accept(gap, Finished(), &deliver).ok());
  EXPECT_EQ(Accept(gap, Finished(), &deliver).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace octet
