#include "tests/fault/stream_load.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/sha256.h"
#include "core/status_macros.h"
#include "tests/integration/local_cluster.h"

namespace octet {
namespace {

// The list that begins with address `first` of it.
std::string Rotated(const std::string& addresses, size_t first) {
  std::vector<std::string> list = absl::StrSplit(addresses, ',');
  std::rotate(list.begin(), list.begin() + static_cast<ptrdiff_t>(first % list.size()), list.end());
  return absl::StrJoin(list, ",");
}

}  // namespace

octet::v1::GenerateRequest LoadRequest(uint32_t index, uint32_t prompt_tokens, uint32_t tokens,
                                       uint32_t vocab) {
  octet::v1::GenerateRequest request;
  const uint32_t ids = vocab > 3 ? vocab - 3 : 1;
  for (uint32_t i = 0; i < prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids(
        static_cast<int32_t>((3 + (index * 131 + i * 29 + i * i * 7) % ids) % vocab));
  }
  request.mutable_sampling()->set_temperature(index % 2 == 0 ? 0.0f : 1.0f);
  request.mutable_sampling()->set_seed(1000 + index);
  request.mutable_stop()->set_max_tokens(tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

absl::StatusOr<std::unique_ptr<StreamLoad>> StreamLoad::Start(const std::string& address,
                                                              const StreamLoadOptions& options) {
  std::unique_ptr<StreamLoad> load(new StreamLoad(options));
  OCTET_ASSIGN_OR_RETURN(const auto probe, Client::Connect(address, options.client));
  OCTET_ASSIGN_OR_RETURN(const auto model, probe->GetModel());
  load->streams_.resize(options.streams);
  for (size_t i = 0; i < options.streams; ++i) {
    Stream& stream = load->streams_[i];
    stream.request =
        LoadRequest(static_cast<uint32_t>(i), options.prompt_tokens, options.tokens, model.vocab());
    OCTET_ASSIGN_OR_RETURN(stream.client, Client::Connect(Rotated(address, i), options.client));
  }
  OCTET_RETURN_IF_ERROR(load->AskReferences(address));
  for (const std::string& other : options.other_versions) {
    OCTET_RETURN_IF_ERROR(load->AskReferences(other));
  }
  for (Stream& stream : load->streams_) stream.gaps.clear();
  load->tokens_ = 0;
  return load;
}

absl::Status StreamLoad::AskReferences(const std::string& address) {
  OCTET_ASSIGN_OR_RETURN(const auto client, Client::Connect(address, options_.client));
  std::vector<absl::Status> statuses(streams_.size());
  for (size_t i = 0; i < streams_.size(); ++i) {
    streams_[i].thread = std::thread([this, i, &statuses, &client] {
      auto answer = Ask(&streams_[i], client.get());
      statuses[i] = answer.status();
      if (answer.ok()) streams_[i].references[answer->digest] = std::move(answer->tokens);
    });
  }
  for (Stream& stream : streams_) stream.thread.join();
  for (const absl::Status& status : statuses) OCTET_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

StreamLoad::~StreamLoad() {
  stop_ = true;
  for (Stream& stream : streams_) {
    if (stream.thread.joinable()) stream.thread.join();
  }
}

absl::StatusOr<StreamLoad::Answer> StreamLoad::Ask(Stream* stream, Client* client) {
  if (options_.fresh) stream->request.set_cache_salt(absl::StrCat("answer ", ++salts_));
  MonotonicTime last = kNever;
  size_t had = 0;
  const auto on_tokens = [&](size_t count) {
    const MonotonicTime now = clock_.Now();
    if (last != kNever) stream->gaps.push_back({last, now});
    last = now;
    tokens_ += count - had;
    had = count;
  };
  Answer answer;
  OCTET_ASSIGN_OR_RETURN(answer.tokens, GenerateTokens(client, stream->request, on_tokens,
                                                       CancelToken(), &answer.digest));
  return answer;
}

void StreamLoad::RunStream(Stream* stream) {
  while (!stop_) {
    const auto answer = Ask(stream, stream->client.get());
    MutexLock lock(mu_);
    ++result_.requests;
    if (!answer.ok()) {
      ++result_.failed;
      if (absl::IsDataLoss(answer.status())) ++result_.data_loss;
      if (result_.first_error.empty()) result_.first_error = answer.status().ToString();
      continue;
    }
    ++result_.answers[answer->digest];
    const auto reference = stream->references.find(answer->digest);
    if (reference == stream->references.end() || reference->second != answer->tokens) {
      ++result_.mismatched;
      if (result_.first_error.empty()) result_.first_error = "tokens differ";
    }
  }
}

void StreamLoad::Run() {
  for (Stream& stream : streams_) {
    stream.thread = std::thread([this, &stream] { RunStream(&stream); });
  }
}

StreamLoadResult StreamLoad::Progress() const {
  MutexLock lock(mu_);
  return result_;
}

StreamLoadResult StreamLoad::Stop() {
  stop_ = true;
  for (Stream& stream : streams_) stream.thread.join();
  MutexLock lock(mu_);
  StreamLoadResult result = std::move(result_);
  result.tokens = tokens_;
  for (Stream& stream : streams_) result.gaps.push_back(std::move(stream.gaps));
  return result;
}

std::string StreamLoad::ReferenceDigest() const {
  std::string text;
  for (const Stream& stream : streams_) {
    for (const auto& [digest, tokens] : stream.references) {
      for (const int32_t id : tokens) absl::StrAppend(&text, id, " ");
    }
  }
  return DigestHex(Sha256(text));
}

}  // namespace octet
