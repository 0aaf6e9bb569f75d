#include "router/request_check.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octet {
namespace {

GenerationRequest Valid() {
  GenerationRequest request;
  request.prompt = {1, 2, 3};
  return request;
}

TEST(RequestCheckTest, DefaultsAreValid) { EXPECT_TRUE(CheckRequest(Valid(), 10, 16).ok()); }

TEST(RequestCheckTest, EachBadFieldIsNamed) {
  struct Case {
    std::string field;
    std::function<void(GenerationRequest*)> spoil;
  };
  const std::vector<Case> cases = {
      {"prompt", [](auto* r) { r->prompt.clear(); }},
      {"prompt", [](auto* r) { r->prompt.push_back(10); }},
      {"prompt", [](auto* r) { r->prompt.push_back(-1); }},
      {"prompt", [](auto* r) { r->prompt.assign(16, 1); }},
      {"temperature", [](auto* r) { r->sampling.temperature = -0.1f; }},
      {"temperature", [](auto* r) { r->sampling.temperature = NAN; }},
      {"temperature", [](auto* r) { r->sampling.temperature = INFINITY; }},
      {"top_k", [](auto* r) { r->sampling.top_k = -1; }},
      {"top_p", [](auto* r) { r->sampling.top_p = 0; }},
      {"top_p", [](auto* r) { r->sampling.top_p = 1.01f; }},
      {"top_p", [](auto* r) { r->sampling.top_p = NAN; }},
      {"min_p", [](auto* r) { r->sampling.min_p = 1; }},
      {"min_p", [](auto* r) { r->sampling.min_p = NAN; }},
      {"repetition_penalty", [](auto* r) { r->sampling.repetition_penalty = 0; }},
      {"repetition_penalty", [](auto* r) { r->sampling.repetition_penalty = NAN; }},
      {"frequency_penalty", [](auto* r) { r->sampling.frequency_penalty = 2.1f; }},
      {"presence_penalty", [](auto* r) { r->sampling.presence_penalty = -2.1f; }},
      {"logit_bias",
       [](auto* r) {
         r->sampling.logit_bias = {{10, 1.0f}};
       }},
      {"logit_bias",
       [](auto* r) {
         r->sampling.logit_bias = {{1, NAN}};
       }},
      {"logit_bias", [](auto* r) { r->sampling.logit_bias.resize(kLogitBiasMax + 1); }},
      {"stop", [](auto* r) { r->stop.stop_strings = {""}; }},
      {"stop", [](auto* r) { r->stop.stop_strings.assign(kStopStringsMax + 1, "a"); }},
      {"stop", [](auto* r) { r->stop.stop_strings = {std::string(kStopStringBytesMax + 1, 'a')}; }},
      {"stop_token_ids", [](auto* r) { r->stop.stop_ids = {10}; }},
      {"stop_token_ids", [](auto* r) { r->stop.stop_ids.assign(kStopIdsMax + 1, 1); }},
      {"cache_salt", [](auto* r) { r->cache_salt.assign(kCacheSaltBytesMax + 1, 's'); }},
      {"top_logprobs", [](auto* r) { r->top_logprobs = kTopLogprobsMax + 1; }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    GenerationRequest request = Valid();
    cases[i].spoil(&request);
    const absl::Status status = CheckRequest(request, 10, 16);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << i;
    EXPECT_THAT(std::string(status.message()), testing::StartsWith(cases[i].field + ":")) << i;
  }
}

}  // namespace
}  // namespace octet
