// Requests that are poison, beside others: each ends alone, with its field's name where one is at
// fault, and nobody else's tokens change.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "tests/cli/inference_fixture.h"

namespace octet {
namespace {

using octet::v1::GenerateRequest;
using octet::v1::GenerateResponse;
using ::testing::HasSubstr;

constexpr uint32_t kTokens = 24;
constexpr uint32_t kPrompts = 4;

struct Poison {
  const char* name;
  const char* field;  // that the error names; empty: the request is odd, but served
  std::function<void(GenerateRequest*)> make;
};

std::vector<Poison> Poisons() {
  return {
      {"huge logit bias", "logit_bias",
       [](GenerateRequest* r) { (*r->mutable_sampling()->mutable_logit_bias())[3] = 3e38f; }},
      {"logit bias that is no number", "logit_bias",
       [](GenerateRequest* r) {
         (*r->mutable_sampling()->mutable_logit_bias())[3] =
             std::numeric_limits<float>::quiet_NaN();
       }},
      {"every token banned but one", "",
       [](GenerateRequest* r) {
         for (int id = 0; id < 95; ++id) {
           (*r->mutable_sampling()->mutable_logit_bias())[id] = -100;
         }
       }},
      {"infinite temperature", "temperature",
       [](GenerateRequest* r) {
         r->mutable_sampling()->set_temperature(std::numeric_limits<float>::infinity());
       }},
      {"endless list of stop strings", "stop",
       [](GenerateRequest* r) {
         for (int i = 0; i < 100'000; ++i) r->mutable_stop()->add_stop("x");
       }},
      {"endless stop string", "stop",
       [](GenerateRequest* r) { r->mutable_stop()->add_stop(std::string(1 << 20, 'x')); }},
      {"prompt of 100,000 tokens", "prompt",
       [](GenerateRequest* r) { r->mutable_token_ids()->mutable_ids()->Resize(100'000, 5); }},
      {"token that is not in the vocabulary", "token_ids",
       [](GenerateRequest* r) { r->mutable_token_ids()->add_ids(INT32_MAX); }},
      {"answer past the context", "",
       [](GenerateRequest* r) { r->mutable_stop()->set_max_tokens(UINT32_MAX); }},
  };
}

class PoisonTest : public InferenceFixture {
 protected:
  // Once, over a connection of its own.
  absl::StatusOr<std::vector<int32_t>> Generate(const GenerateRequest& request) {
    ClientOptions once;
    once.attempts_max = 1;
    auto client = Client::Connect(server_->address(), once);
    if (!client.ok()) return client.status();
    std::vector<int32_t> tokens;
    const absl::Status status = (*client)->Generate(request, [&](const GenerateResponse& event) {
      const auto& ids = event.chunk().token_ids();
      tokens.insert(tokens.end(), ids.begin(), ids.end());
    });
    if (!status.ok()) return status;
    return tokens;
  }
};

TEST_F(PoisonTest, OnlyThePoisonedRequestFails) {
  Serve(EngineOptions());
  std::vector<std::vector<int32_t>> expected;
  for (uint32_t i = 0; i < kPrompts; ++i) {
    auto tokens = Generate(Request(i, kTokens));
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    expected.push_back(*std::move(tokens));
  }
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> answered{0};
  std::vector<std::thread> healthy;
  for (uint32_t i = 0; i < kPrompts; ++i) {
    healthy.emplace_back([&, i] {
      while (!stop) {
        const auto tokens = Generate(Request(i, kTokens));
        ASSERT_TRUE(tokens.ok()) << tokens.status();
        ASSERT_EQ(*tokens, expected[i]);
        ++answered;
      }
    });
  }
  for (int round = 0; round < 10; ++round) {
    for (const Poison& poison : Poisons()) {
      SCOPED_TRACE(poison.name);
      GenerateRequest request = Request(7, kTokens);
      poison.make(&request);
      const absl::Status status = Generate(request).status();
      if (*poison.field == '\0') {
        EXPECT_TRUE(status.ok()) << status;
        continue;
      }
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(poison.field));
      EXPECT_LT(status.message().size(), 1'000u);
    }
  }
  const uint64_t before = answered;
  while (answered < before + kPrompts) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : healthy) thread.join();
  EXPECT_EQ(model_->engine().stats().running, 0u);
}

}  // namespace
}  // namespace octet
