// octet.v1.Inference over loopback, on a tiny model in this process.
#include "router/api/inference_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "client/client.h"
#include "core/limits.h"
#include "rpc/status_details.h"
#include "tests/cli/inference_fixture.h"

namespace octet {
namespace {

using octet::v1::GenerateRequest;
using ::testing::HasSubstr;

constexpr uint32_t kVocab = 96;
constexpr uint32_t kContext = 512;

struct Outcome {
  absl::Status status;
  octet::v1::Started started;
  octet::v1::Finished finished;
  std::vector<int32_t> tokens;
  std::vector<uint32_t> indices;
};

class InferenceServiceTest : public InferenceFixture {
 protected:
  void Open(const EngineOptions& engine) {
    Serve(engine);
    client_ = NewClient({});
  }
  void SetUp() override { Open(EngineOptions()); }

  std::unique_ptr<Client> NewClient(ClientOptions options) {
    options.attempts_max = 1;
    auto client = Client::Connect(server_->address(), options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  static GenerateRequest Request(uint32_t max_tokens = 8) {
    return InferenceFixture::Request(0, max_tokens);
  }

  Outcome Generate(const GenerateRequest& request) {
    Outcome outcome;
    outcome.status = client_->Generate(request, [&](const octet::v1::GenerateResponse& event) {
      if (event.has_started()) outcome.started = event.started();
      if (event.has_finished()) outcome.finished = event.finished();
      for (int i = 0; i < event.chunk().token_ids_size(); ++i) {
        outcome.tokens.push_back(event.chunk().token_ids(i));
        outcome.indices.push_back(event.chunk().index() + static_cast<uint32_t>(i));
      }
    });
    return outcome;
  }

  std::unique_ptr<Client> client_;
};

TEST_F(InferenceServiceTest, FirstMessageTellsWhatWasResolved) {
  GenerateRequest request = Request();
  request.clear_sampling();
  request.clear_stop();
  request.mutable_stop()->set_min_tokens(2);
  request.mutable_stop()->set_max_tokens(4);
  const Outcome outcome = Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_FALSE(outcome.started.request_id().empty());
  EXPECT_EQ(outcome.started.prompt_tokens(), 3u);
  EXPECT_EQ(outcome.started.compute_digest().size(), 64u);
  EXPECT_EQ(outcome.started.sampling().temperature(), 1.0f);
  EXPECT_EQ(outcome.started.sampling().top_p(), 1.0f);
  EXPECT_EQ(outcome.started.sampling().seed(), outcome.started.seed());
  EXPECT_EQ(outcome.started.stop().max_tokens(), 4u);
  EXPECT_EQ(outcome.started.stop().min_tokens(), 2u);
}

TEST_F(InferenceServiceTest, ChunksAreNumberedAndUsageAddsUp) {
  const Outcome outcome = Generate(Request(8));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  ASSERT_EQ(outcome.indices.size(), 8u);
  for (uint32_t i = 0; i < 8; ++i) EXPECT_EQ(outcome.indices[i], i);
  EXPECT_EQ(outcome.finished.reason(), octet::v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(outcome.finished.usage().prompt_tokens(), 3u);
  EXPECT_EQ(outcome.finished.usage().completion_tokens(), 8u);
}

TEST_F(InferenceServiceTest, UsageTellsWhatThePrefixCacheHadForTheSalt) {
  GenerateRequest request = Request();
  for (int i = 0; i < 100; ++i) request.mutable_token_ids()->add_ids(i % 90);
  const Outcome first = Generate(request);
  const Outcome again = Generate(request);
  request.set_cache_salt("another tenant");
  const Outcome salted = Generate(request);
  EXPECT_EQ(first.finished.usage().cached_tokens(), 0u);
  EXPECT_EQ(again.finished.usage().cached_tokens(), 64u);
  EXPECT_EQ(salted.finished.usage().cached_tokens(), 0u);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(salted.tokens, first.tokens);
}

TEST_F(InferenceServiceTest, MaxTokensIsCutToTheContext) {
  const Outcome outcome = Generate(Request(100000));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.started.stop().max_tokens(), kContext - 3);
  EXPECT_EQ(outcome.tokens.size(), kContext - 3);
}

TEST_F(InferenceServiceTest, SeedDecidesTheTokensAndTheAnswerNamesIt) {
  GenerateRequest request = Request(16);
  request.mutable_sampling()->clear_seed();
  const Outcome drawn = Generate(request);
  request.mutable_sampling()->set_seed(drawn.started.seed());
  const Outcome again = Generate(request);
  ASSERT_TRUE(drawn.status.ok() && again.status.ok());
  EXPECT_EQ(drawn.tokens, again.tokens);
  request.mutable_sampling()->set_seed(drawn.started.seed() + 1);
  EXPECT_NE(Generate(request).tokens, drawn.tokens);
}

TEST_F(InferenceServiceTest, ResumeGivesTheRestOfTheOriginal) {
  const Outcome whole = Generate(Request(20));
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  for (const uint32_t from : {1u, 7u, 19u, 20u}) {
    GenerateRequest request = Request(20);
    request.set_resume_index(from);
    const Outcome rest = Generate(request);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_EQ(rest.tokens, std::vector<int32_t>(whole.tokens.begin() + from, whole.tokens.end()));
    EXPECT_EQ(rest.indices.empty() ? 20u : rest.indices.front(), from);
    EXPECT_EQ(rest.finished.reason(), whole.finished.reason());
  }
}

TEST_F(InferenceServiceTest, PromptLogprobsComeForEachTokenAfterTheFirst) {
  GenerateRequest request = Request(1);
  request.set_prompt_logprobs(true);
  int count = 0;
  const absl::Status status =
      client_->Generate(request, [&](const octet::v1::GenerateResponse& event) {
        for (const auto& logprob : event.chunk().prompt_logprobs()) {
          EXPECT_LT(logprob.logprob(), 0);
          ++count;
        }
      });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(count, 2);
}

TEST_F(InferenceServiceTest, CancelEndsTheRequest) {
  auto blocker = std::make_shared<BlockingSink>();
  GenerationRequest first;
  first.prompt = {4};
  first.stop.max_tokens = 2;
  first.stop.ignore_eos = true;
  ASSERT_TRUE(model_->engine().Submit(first, blocker).ok());
  blocker->WaitUntilReached();
  const CancelToken cancel;
  const absl::Status status = client_->Generate(
      Request(400), [&](const octet::v1::GenerateResponse&) { cancel.Cancel(); }, cancel);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  // Same connection: the router has seen the reset before it answers this.
  ASSERT_TRUE(client_->GetModel().ok());
  blocker->Release();
  model_->engine().Drain(clock_.Now() + Duration::Millis(20'000));
  EXPECT_EQ(model_->engine().stats().running, 0u);
  EXPECT_LT(model_->engine().stats().generated_tokens, 300u);
}

TEST_F(InferenceServiceTest, DeadlineEndsTheRequest) {
  auto blocker = std::make_shared<BlockingSink>();
  GenerationRequest first;
  first.prompt = {4};
  first.stop.max_tokens = 2;
  first.stop.ignore_eos = true;
  ASSERT_TRUE(model_->engine().Submit(first, blocker).ok());
  blocker->WaitUntilReached();
  ClientOptions options;
  options.timeout = Duration::Millis(50);
  const auto client = NewClient(options);
  const absl::Status status =
      client->Generate(Request(), [](const octet::v1::GenerateResponse&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  blocker->Release();
  // Others are not affected.
  EXPECT_TRUE(Generate(Request()).status.ok());
}

TEST_F(InferenceServiceTest, FullQueueIsRefusedWithADelay) {
  TearDown();
  EngineOptions engine;
  engine.running_max = 1;
  engine.waiting_max = 1;
  Open(engine);
  auto blocker = std::make_shared<BlockingSink>();
  GenerationRequest request;
  request.prompt = {4};
  request.stop.max_tokens = 2;
  request.stop.ignore_eos = true;
  ASSERT_TRUE(model_->engine().Submit(request, blocker).ok());
  blocker->WaitUntilReached();
  auto waiting = std::make_shared<BlockingSink>();
  waiting->Release();
  EXPECT_TRUE(model_->engine().Submit(request, waiting).ok());
  const Outcome refused = Generate(Request());
  blocker->Release();
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted) << refused.status;
  EXPECT_TRUE(GetRetryDelay(refused.status).has_value());
}

TEST_F(InferenceServiceTest, DrainingRefusesWithADelay) {
  model_->engine().Drain(clock_.Now() + Duration::Millis(1000));
  const Outcome refused = Generate(Request());
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kUnavailable) << refused.status;
  EXPECT_TRUE(GetRetryDelay(refused.status).has_value());
}

TEST_F(InferenceServiceTest, TextNeedsATokenizer) {
  GenerateRequest request = Request();
  request.set_text("hello");
  const Outcome outcome = Generate(request);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("no tokenizer"));
}

TEST_F(InferenceServiceTest, GetModelDescribesIt) {
  const auto model = client_->GetModel();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->experts(), 4u);
  EXPECT_EQ(model->top_k(), 2u);
  EXPECT_EQ(model->vocab(), kVocab);
  EXPECT_EQ(model->context(), kContext);
  EXPECT_EQ(model->gate(), "linear");
}

struct BadField {
  const char* field;    // named by the error and its detail
  const char* allowed;  // part of the message
  std::function<void(GenerateRequest*)> spoil;
};

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

std::vector<BadField> BadSampling() {
  std::vector<BadField> all;
  const auto add = [&all](const char* field, const char* allowed, std::vector<float> values,
                          void (octet::v1::SamplingParams::*set)(float)) {
    values.push_back(kNan);
    values.push_back(kInf);
    values.push_back(-kInf);
    for (const float value : values) {
      all.push_back(
          {field, allowed, [=](GenerateRequest* r) { (r->mutable_sampling()->*set)(value); }});
    }
  };
  using P = octet::v1::SamplingParams;
  add("sampling.temperature", "0 (greedy) to 100", {-0.1f, 100.5f}, &P::set_temperature);
  add("sampling.top_p", "above 0, at most 1", {0, -1, 1.01f}, &P::set_top_p);
  add("sampling.min_p", "from 0, below 1", {-0.1f, 1}, &P::set_min_p);
  add("sampling.repetition_penalty", "above 0, at most 10", {0, -1, 11},
      &P::set_repetition_penalty);
  add("sampling.frequency_penalty", "-2 to 2", {-2.1f, 2.1f}, &P::set_frequency_penalty);
  add("sampling.presence_penalty", "-2 to 2", {-2.1f, 2.1f}, &P::set_presence_penalty);
  return all;
}

std::vector<BadField> BadFields() {
  std::vector<BadField> all = BadSampling();
  const std::vector<BadField> others = {
      {"sampling.top_k", "from 0 (off)",
       [](GenerateRequest* r) { r->mutable_sampling()->set_top_k(-1); }},
      {"sampling.logit_bias", "0 to 95",
       [](GenerateRequest* r) { (*r->mutable_sampling()->mutable_logit_bias())[kVocab] = 1; }},
      {"sampling.logit_bias", "0 to 95",
       [](GenerateRequest* r) { (*r->mutable_sampling()->mutable_logit_bias())[-1] = 1; }},
      {"sampling.logit_bias[3]", "-100 to 100",
       [](GenerateRequest* r) { (*r->mutable_sampling()->mutable_logit_bias())[3] = kNan; }},
      {"sampling.logit_bias", "at most 1024",
       [](GenerateRequest* r) {
         for (int i = 0; i < 1025; ++i) (*r->mutable_sampling()->mutable_logit_bias())[i] = 1;
       }},
      {"stop.max_tokens", "from 1",
       [](GenerateRequest* r) { r->mutable_stop()->set_max_tokens(0); }},
      {"stop.min_tokens", "to max_tokens",
       [](GenerateRequest* r) { r->mutable_stop()->set_min_tokens(9); }},
      {"stop.stop[0]", "1 to 1024 bytes",
       [](GenerateRequest* r) { r->mutable_stop()->add_stop(""); }},
      {"stop.stop[1]", "1 to 1024 bytes",
       [](GenerateRequest* r) {
         r->mutable_stop()->add_stop("ok");
         r->mutable_stop()->add_stop(std::string(kStopStringBytesMax + 1, 'x'));
       }},
      {"stop.stop", "at most 16",
       [](GenerateRequest* r) {
         for (int i = 0; i < 17; ++i) r->mutable_stop()->add_stop("x");
       }},
      {"stop.stop_token_ids[0]", "0 to 95",
       [](GenerateRequest* r) { r->mutable_stop()->add_stop_token_ids(-3); }},
      {"stop.stop_token_ids", "at most 128",
       [](GenerateRequest* r) {
         for (int i = 0; i < 129; ++i) r->mutable_stop()->add_stop_token_ids(1);
       }},
      {"top_logprobs", "0 to 20", [](GenerateRequest* r) { r->set_top_logprobs(21); }},
      {"request_id", "1 to 128 bytes", [](GenerateRequest* r) { r->set_request_id(""); }},
      {"request_id", "1 to 128 bytes",
       [](GenerateRequest* r) { r->set_request_id(std::string(129, 'i')); }},
      {"cache_salt", "at most 256 bytes",
       [](GenerateRequest* r) { r->set_cache_salt(std::string(257, 's')); }},
      {"resume_index", "to max_tokens", [](GenerateRequest* r) { r->set_resume_index(9); }},
      {"prompt", "one of text, token_ids, chat", [](GenerateRequest* r) { r->clear_token_ids(); }},
      {"prompt", "at least one", [](GenerateRequest* r) { r->mutable_token_ids()->clear_ids(); }},
      {"token_ids.ids[3]", "0 to 95",
       [](GenerateRequest* r) { r->mutable_token_ids()->add_ids(kVocab); }},
      {"token_ids.ids[3]", "0 to 95",
       [](GenerateRequest* r) { r->mutable_token_ids()->add_ids(-1); }},
      {"prompt", "at most 511",
       [](GenerateRequest* r) {
         for (uint32_t i = 0; i < kContext; ++i) r->mutable_token_ids()->add_ids(1);
       }},
      {"chat.messages", "1 to", [](GenerateRequest* r) { r->mutable_chat(); }},
      {"chat.messages[0].role", "\"user\"",
       [](GenerateRequest* r) { r->mutable_chat()->add_messages()->set_content("hi"); }},
  };
  all.insert(all.end(), others.begin(), others.end());
  return all;
}

TEST_F(InferenceServiceTest, EachBadFieldHasOneClearError) {
  for (const BadField& bad : BadFields()) {
    GenerateRequest request = Request(8);
    bad.spoil(&request);
    const Outcome outcome = Generate(request);
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument)
        << bad.field << ": " << outcome.status;
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr(bad.allowed)) << bad.field;
    const auto violations = GetFieldViolations(outcome.status);
    ASSERT_EQ(violations.size(), 1u) << bad.field;
    EXPECT_EQ(violations[0].field, bad.field);
    EXPECT_FALSE(outcome.started.has_sampling()) << "a refused request has no stream";
  }
}

}  // namespace
}  // namespace octet
