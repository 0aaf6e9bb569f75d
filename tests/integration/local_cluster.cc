#include "tests/integration/local_cluster.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "core/check.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace octet {
namespace {

constexpr int64_t kCommandMs = 60'000;
constexpr char kModel[] = "/tests/golden/models/mixtral-gqa4-bf16";
constexpr uint32_t kPromptTokens = 12;
constexpr uint32_t kVocab = 64;  // ids below this are in the vocabulary

std::vector<std::string> UpArguments(const std::string& package,
                                     const std::vector<std::string>& flags) {
  std::vector<std::string> argv = {OctetBinary(), "up", "--listen", "127.0.0.1:0"};
  if (!package.empty()) argv.insert(argv.end(), {"--model", package});
  argv.insert(argv.end(), flags.begin(), flags.end());
  return argv;
}

ClientOptions PatientOptions() {
  ClientOptions options;
  options.attempts_max = 20;
  options.timeout = Duration::Millis(60'000);
  return options;
}

}  // namespace

std::string PackTestModel(const std::string& directory, const std::vector<std::string>& formats) {
  const std::string package = directory + "/package";
  std::vector<std::string> argv = {OctetBinary(), "pack", std::string(OCTET_SOURCE_DIR) + kModel,
                                   package};
  argv.insert(argv.end(), formats.begin(), formats.end());
  const ProcessResult result = RunProcess(argv, kCommandMs);
  EXPECT_EQ(result.exit_code, 0) << result.stderr_text;
  return package;
}

octet::v1::GenerateRequest TestRequest(uint32_t index, uint32_t max_tokens) {
  octet::v1::GenerateRequest request;
  for (uint32_t i = 0; i < kPromptTokens; ++i) {
    request.mutable_token_ids()->add_ids(
        static_cast<int32_t>(3 + (index * 7 + i * 5) % (kVocab - 3)));
  }
  request.mutable_sampling()->set_temperature(index % 2 == 0 ? 0.0f : 1.0f);
  request.mutable_sampling()->set_seed(100 + index);
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

std::vector<int32_t> SingleProcessTokens(const std::string& package, uint32_t index,
                                         uint32_t max_tokens) {
  const TemporaryDirectory directory;
  const std::string file = directory.path() + "/ids";
  const octet::v1::GenerateRequest request = TestRequest(index, max_tokens);
  std::ofstream ids(file);
  for (int32_t id : request.token_ids().ids()) ids << id << "\n";
  ids.close();
  const ProcessResult result =
      RunProcess({OctetBinary(), "generate", "--model", package, "--ids", file, "--json",
                  "--ignore-eos", "--max-tokens", std::to_string(max_tokens), "--seed",
                  std::to_string(request.sampling().seed()), "--temperature",
                  std::to_string(request.sampling().temperature())},
                 kCommandMs);
  EXPECT_EQ(result.exit_code, 0) << result.stderr_text;
  const auto json = nlohmann::json::parse(result.stdout_text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("token_ids")) {
    ADD_FAILURE() << "not the JSON of an answer: " << result.stdout_text;
    return {};
  }
  return json["token_ids"].get<std::vector<int32_t>>();
}

absl::StatusOr<std::vector<int32_t>> GenerateTokens(Client* client,
                                                    const octet::v1::GenerateRequest& request,
                                                    const std::function<void(size_t)>& on_tokens,
                                                    const CancelToken& cancel,
                                                    std::string* digest) {
  std::vector<int32_t> tokens;
  const absl::Status status = client->Generate(
      request,
      [&](const octet::v1::GenerateResponse& event) {
        if (event.has_started() && digest != nullptr) *digest = event.started().compute_digest();
        if (!event.has_chunk()) return;
        const auto& ids = event.chunk().token_ids();
        tokens.insert(tokens.end(), ids.begin(), ids.end());
        if (on_tokens) on_tokens(tokens.size());
      },
      cancel);
  if (!status.ok()) return status;
  return tokens;
}

LocalCluster::LocalCluster(const std::string& package, const std::vector<std::string>& flags)
    : up_(UpArguments(package, flags)) {}

bool LocalCluster::WaitReady(int64_t timeout_ms) {
  const std::string mark = "ready on ";
  if (!up_.WaitForOutput(mark, timeout_ms)) return false;
  const std::string text = up_.StdoutText();
  const size_t begin = text.find(mark) + mark.size();
  address_ = text.substr(begin, text.find(' ', begin) - begin);
  return WaitStatus([](const auto& status) { return status.ready(); }, timeout_ms);
}

std::unique_ptr<Client> LocalCluster::Connect() const {
  auto client = Client::Connect(address_, PatientOptions());
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? std::move(*client) : nullptr;
}

octet::v1::StatusResponse LocalCluster::Status() const {
  const auto client = Connect();
  const auto status = client->Status();
  return status.ok() ? *status : octet::v1::StatusResponse();
}

bool LocalCluster::WaitStatus(
    const std::function<bool(const octet::v1::StatusResponse&)>& condition,
    int64_t timeout_ms) const {
  const auto client = Connect();
  return PollUntil(
      [&] {
        const auto status = client->Status();
        return status.ok() && condition(*status);
      },
      timeout_ms);
}

std::vector<pid_t> LocalCluster::Pids(const std::string& name) const {
  std::vector<pid_t> pids;
  std::istringstream lines(up_.StdoutText());
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find(" pid ");
    if (at == std::string::npos || line.compare(0, name.size(), name) != 0) continue;
    pids.push_back(static_cast<pid_t>(std::stol(line.substr(at + 5))));
  }
  return pids;
}

size_t ReadyWorkers(const octet::v1::StatusResponse& status) {
  size_t ready = 0;
  for (const auto& worker : status.workers()) ready += worker.state() == "ready" ? 1 : 0;
  return ready;
}

}  // namespace octet
