// Partitions: the workers of a cluster in network namespaces of their own, joined by a bridge.
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/status_macros.h"
#include "tests/fault/chaos_cluster.h"
#include "tests/fault/scenarios.h"

namespace octet {
namespace {

constexpr int64_t kCommandMs = 10'000;
constexpr char kPort[] = "7431";

// `line` is split at spaces.
absl::Status RunLine(const std::string& line) {
  const ProcessResult result = RunProcess(absl::StrSplit(line, ' '), kCommandMs);
  if (result.exit_code == 0) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(line, ": exit status ", result.exit_code, " ",
                                               result.stderr_text.substr(0, 200)));
}

// A bridge in this namespace and one namespace a worker. Names carry our process id, so that two
// runs do not meet.
class Networks {
 public:
  static absl::StatusOr<std::unique_ptr<Networks>> Make(uint32_t workers) {
    if (geteuid() != 0) return absl::UnimplementedError("network namespaces need root");
    std::unique_ptr<Networks> networks(new Networks(workers));
    OCTET_RETURN_IF_ERROR(networks->Build());
    return networks;
  }
  ~Networks() {
    for (uint32_t i = 0; i < workers_; ++i) (void)RunLine("ip netns del " + Space(i));
    (void)RunLine("ip link del " + bridge_);
  }

  // Of this namespace, and of worker i's.
  std::string Hub() const { return absl::StrCat(net_, ".1"); }
  std::string Address(uint32_t i) const { return absl::StrCat(net_, ".", 10 + i); }
  std::string Space(uint32_t i) const { return absl::StrCat("oct", id_, "w", i); }

  absl::Status Cut(uint32_t i, bool in, bool out) const {
    const std::string nft = absl::StrCat("ip netns exec ", Space(i), " nft ");
    OCTET_RETURN_IF_ERROR(RunLine(nft + "add table inet cut"));
    for (const auto& [hook, wanted] : {std::pair{"input", in}, {"output", out}}) {
      if (!wanted) continue;
      OCTET_RETURN_IF_ERROR(
          RunLine(absl::StrCat(nft, "add chain inet cut ", hook, " { type filter hook ", hook,
                               " priority 0 ; policy drop ; }")));
    }
    return absl::OkStatus();
  }
  absl::Status Heal(uint32_t i) const {
    return RunLine(absl::StrCat("ip netns exec ", Space(i), " nft delete table inet cut"));
  }

 private:
  explicit Networks(uint32_t workers)
      : workers_(workers),
        id_(getpid() % 10'000),
        net_(absl::StrCat("10.", 64 + id_ % 64, ".", id_ % 250)) {
    bridge_ = absl::StrCat("octbr", id_);
  }

  absl::Status Build() {
    OCTET_RETURN_IF_ERROR(RunLine("nft --version"));
    OCTET_RETURN_IF_ERROR(RunLine(absl::StrCat("ip link add ", bridge_, " type bridge")));
    OCTET_RETURN_IF_ERROR(RunLine(absl::StrCat("ip addr add ", Hub(), "/24 dev ", bridge_)));
    OCTET_RETURN_IF_ERROR(RunLine(absl::StrCat("ip link set ", bridge_, " up")));
    for (uint32_t i = 0; i < workers_; ++i) {
      const std::string here = absl::StrCat("octv", id_, "n", i);
      const std::string in = absl::StrCat("ip -n ", Space(i), " ");
      OCTET_RETURN_IF_ERROR(RunLine("ip netns add " + Space(i)));
      OCTET_RETURN_IF_ERROR(RunLine(
          absl::StrCat("ip link add ", here, " type veth peer name eth0 netns ", Space(i))));
      OCTET_RETURN_IF_ERROR(
          RunLine(absl::StrCat("ip link set ", here, " master ", bridge_, " up")));
      OCTET_RETURN_IF_ERROR(RunLine(absl::StrCat(in, "addr add ", Address(i), "/24 dev eth0")));
      OCTET_RETURN_IF_ERROR(RunLine(in + "link set eth0 up"));
      OCTET_RETURN_IF_ERROR(RunLine(in + "link set lo up"));
    }
    return absl::OkStatus();
  }

  const uint32_t workers_;
  const int id_;
  const std::string net_;
  std::string bridge_;
};

// The roles by hand, as an operator of several hosts starts them.
class SpreadCluster {
 public:
  SpreadCluster(const Networks& networks, const ChaosOptions& options, const std::string& state) {
    const std::string coordinator = networks.Hub() + ":7430";
    Role({"coordinator", "--listen", coordinator, "--state-dir", state, "--replication",
          absl::StrCat(options.replication), "--expected-workers", absl::StrCat(options.workers)},
         {}, options);
    for (uint32_t i = 0; i < options.workers; ++i) {
      Role({"worker", "--listen", absl::StrCat(networks.Address(i), ":7432"), "--coordinator",
            coordinator, "--spin", "off"},
           {"ip", "netns", "exec", networks.Space(i)}, options);
    }
    Role({"router", "--listen", absl::StrCat(networks.Hub(), ":", kPort), "--coordinator",
          coordinator, "--spin", "off"},
         {}, options);
  }

  std::string Log() const {
    std::string text;
    for (const auto& role : roles_) absl::StrAppend(&text, role->StderrText());
    return text;
  }

 private:
  void Role(std::vector<std::string> args, std::vector<std::string> before,
            const ChaosOptions& options) {
    before.push_back(OctetBinary());
    before.insert(before.end(), args.begin(), args.end());
    if (!options.model.empty() && args[0] != "coordinator") {
      before.insert(before.end(), {"--model", options.model});
    }
    before.insert(before.end(), {"--log-level", "warning"});
    roles_.push_back(std::make_unique<ChildProcess>(before));
  }

  std::vector<std::unique_ptr<ChildProcess>> roles_;
};

// The index of a worker by the last number of its address.
uint32_t IndexOf(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  return static_cast<uint32_t>(std::stoul(host.substr(host.rfind('.') + 1))) - 10;
}

absl::Status CutOnce(ChaosCluster& chaos, const Networks& networks, const ChaosOptions& options,
                     uint32_t round) {
  const octet::v1::StatusResponse status = chaos.Status();
  const auto& worker = status.workers(
      static_cast<int>(chaos.random()() % static_cast<uint64_t>(status.workers_size())));
  const uint32_t victim = IndexOf(worker.address());
  const uint64_t id = worker.id();
  const MonotonicTime fault = chaos.MarkFault();
  OCTET_RETURN_IF_ERROR(networks.Cut(victim, round % 3 != 1, round % 3 != 0));
  const absl::Status replaced = chaos.WaitStatus("the worker is replaced", [&](const auto& s) {
    for (const auto& w : s.workers()) {
      if (w.id() == id && w.state() == "ready") return false;
    }
    return s.rollout().empty() && Replicated(s, options.replication);
  });
  if (replaced.ok()) chaos.MarkRepaired(fault);
  chaos.MarkFault();
  OCTET_RETURN_IF_ERROR(networks.Heal(victim));
  OCTET_RETURN_IF_ERROR(replaced);
  return chaos.WaitWhole(options.workers, options.replication);
}

}  // namespace

absl::StatusOr<ScenarioResult> PartitionWorkers(const ChaosOptions& options) {
  OCTET_ASSIGN_OR_RETURN(const auto networks, Networks::Make(options.workers));
  const TemporaryDirectory state;
  const SpreadCluster cluster(*networks, options, state.path());
  auto chaos =
      ChaosCluster::Attach("partition", options, absl::StrCat(networks->Hub(), ":", kPort));
  if (!chaos.ok()) {
    return absl::Status(chaos.status().code(),
                        absl::StrCat(chaos.status().message(), "\n", cluster.Log()));
  }
  for (uint32_t round = 0; round < options.rounds; ++round) {
    OCTET_RETURN_IF_ERROR((*chaos)->WaitSomeTokens());
    OCTET_RETURN_IF_ERROR(CutOnce(**chaos, *networks, options, round));
  }
  OCTET_RETURN_IF_ERROR((*chaos)->WaitSomeTokens());
  return (*chaos)->Finish();
}

}  // namespace octet
