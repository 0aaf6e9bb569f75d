#include "tests/sim/cluster.h"

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/log.h"
#include "router/test_util.h"

namespace octet::sim {
namespace {

ClusterSettings SettingsOf(const Plan& plan) {
  ClusterSettings s;
  s.replication = plan.replication;
  s.expected_workers = plan.workers;
  s.expected_wait = Duration::Millis(1'000);
  s.settle = Duration::Micros(plan.settle);
  s.lease = Duration::Micros(plan.lease);
  s.heartbeat = Duration::Micros(plan.heartbeat);
  s.prepare = Duration::Micros(plan.prepare);
  s.freeze = Duration::Micros(plan.freeze);
  return s;
}

std::vector<TokenId> PromptOf(const PlannedRequest& planned) {
  std::vector<TokenId> prompt;
  for (uint32_t i = 0; i < planned.prompt; ++i) {
    prompt.push_back(static_cast<TokenId>(Mix(planned.text * 1000 + i) % kSimVocab));
  }
  return prompt;
}

}  // namespace

Cluster::Cluster(const Plan& plan, const Bugs& bugs, bool trace)
    : plan_(plan),
      bugs_(bugs),
      world_(plan.seed, kFirstRouterNode + plan.routers + plan.workers,
             Duration::Micros(plan.keepalive)),
      start_(world_.Now()),
      calm_(start_),
      settings_(SettingsOf(plan)),
      tokenizer_(MakeByteTokenizer(kSimVocab)),
      weather_(plan.workers),
      workers_(plan.workers),
      routers_(plan.routers),
      invariants_(
          &world_, plan.memory, [this](const PlacedWorker& placed, uint64_t term) -> const Worker* {
            for (uint32_t i = 0; i < plan_.workers; ++i) {
              const Worker* const worker = workers_[i].get();
              if (worker == nullptr || Worker::Address(WorkerNode(i)) != placed.address) continue;
              // Two coordinators may give one id to two processes, at different addresses.
              const MemberSession& session = worker->member().session();
              const bool same = session.id().value() == placed.id.value() && session.term() == term;
              return same ? worker : nullptr;
            }
            return nullptr;
          }) {
  world_.SetTrace(trace);
  disk_of_[0] = disk_of_[1] = NewDisk();
  model_.layers = plan.layers;
  model_.experts = plan.experts;
  world_.Start(kClientNode);
  StartCoordinator(0);
  for (uint32_t i = 0; i < plan.workers; ++i) StartWorker(i);
  for (uint32_t i = 0; i < plan.routers; ++i) StartRouter(i);
  for (const PlannedRequest& request : plan_.requests) {
    world_.At(After(request.at), [this, &request] { StartRequest(request); });
    calm_ = std::max(calm_, After(request.at));
  }
  for (const Fault& fault : plan_.faults) Schedule(fault);
}

Cluster::~Cluster() {
  requests_.clear();
  routers_.clear();
  workers_.clear();
}

void Cluster::StartWorker(uint32_t i) {
  WorkerSettings s;
  s.model = model_;
  s.queue_max = plan_.worker_queue;
  s.memory_experts = plan_.memory;
  s.speed = kWorkerSpeedEqual * (1 + i % plan_.speeds);
  s.compute = Duration::Micros(plan_.compute);
  s.load = Duration::Micros(plan_.load);
  s.bug = bugs_.worker;
  workers_[i] = std::make_unique<Worker>(&world_, WorkerNode(i), s, &weather_[i],
                                         [this](uint32_t slot) -> Coordinator* {
                                           Coordinator* c = coordinators_[slot].get();
                                           return c == nullptr || c->dead() ? nullptr : c;
                                         });
}

void Cluster::StartRouter(uint32_t i) {
  RouterSettings s;
  s.model = model_;
  s.tokenizer = tokenizer_;
  s.kv_blocks = plan_.kv_blocks;
  s.running_max = plan_.running_max;
  s.waiting_max = plan_.waiting_max;
  s.micro_batches = plan_.micro_batches;
  s.bug = bugs_.link;
  routers_[i] = std::make_unique<Router>(
      &world_, RouterNode(i), s,
      [this](uint32_t slot) -> Coordinator* {
        Coordinator* c = coordinators_[slot].get();
        return c == nullptr || c->dead() ? nullptr : c;
      },
      [this](uint32_t node) -> Worker* {
        Worker* w = workers_[node - WorkerNode(0)].get();
        return w == nullptr || !world_.Lives(w->process()) ? nullptr : w;
      });
}

void Cluster::StartCoordinator(uint32_t slot) {
  if (coordinators_[slot] != nullptr) return;
  const uint64_t draw = world_.Below(uint64_t{1} << kTermDrawBits);
  coordinators_[slot] = std::make_unique<Coordinator>(&world_, slot, settings_, disk_of_[slot],
                                                      wall_clock_ << kTermDrawBits | draw,
                                                      &invariants_, bugs_.coordinator);
}

void Cluster::KillCoordinator(uint32_t slot) { coordinators_[slot].reset(); }

void Cluster::StartRequest(const PlannedRequest& planned) {
  ClientSettings s;
  s.routers = plan_.routers;
  s.first_router_node = kFirstRouterNode;
  s.node = kClientNode;
  s.overload_allowed = plan_.waiting_max < plan_.requests.size();
  const std::vector<TokenId> prompt = PromptOf(planned);
  octet::v1::GenerateRequest request;
  for (const TokenId id : prompt) request.mutable_token_ids()->add_ids(id);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(planned.tokens);
  const MonotonicTime deadline =
      planned.deadline == 0 ? kNever : world_.Now() + Duration::Micros(planned.deadline);
  auto started = std::make_shared<ClientRequest>(
      &world_, s,
      [this](uint32_t i) -> Router* {
        Router* r = routers_[i].get();
        return r == nullptr || !world_.Lives(r->process()) ? nullptr : r;
      },
      std::move(request), model_.Reference(prompt, planned.tokens), planned.router, deadline);
  requests_.push_back(started);
  started->Start();
}

void Cluster::Collect() {
  for (auto& coordinator : coordinators_) {
    if (coordinator != nullptr && coordinator->dead()) coordinator.reset();
  }
}

std::string Cluster::Unfinished() const {
  if (requests_.size() < plan_.requests.size()) return "not all requests have begun";
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (!requests_[i]->ended()) return absl::StrCat("request ", i, " has not ended");
  }
  const Coordinator* const coordinator = coordinators_[0].get();
  if (coordinator == nullptr || coordinators_[1] != nullptr) return "not one coordinator";
  const ClusterSnapshot cluster = coordinator->Snapshot();
  if (cluster.versions.empty()) return "no member";
  const VersionSnapshot& snapshot = cluster.versions.front();
  if (snapshot.active == nullptr) return "no placement";
  if (!snapshot.rollout.empty()) return snapshot.rollout;
  // Round-robin over the experts shows that a budget for so many is enough for all of them.
  const uint64_t room = plan_.memory == 0 ? plan_.experts : std::min(plan_.memory, plan_.experts);
  const uint64_t copies = room * plan_.workers / plan_.experts;
  const uint64_t want = std::min<uint64_t>({plan_.replication, plan_.workers, copies});
  for (uint32_t e = 0; e < plan_.experts; ++e) {
    const auto& replicas = snapshot.active->expert_replicas[e];
    uint64_t held = 0;
    for (const auto& worker : workers_) {
      if (worker == nullptr) return "a worker is down";
      const WorkerId id(worker->member().session().id().value());
      const bool named = std::find(replicas.begin(), replicas.end(), id) != replicas.end();
      held += named && worker->store().Find(ExpertId(e)) != nullptr ? 1 : 0;
    }
    if (held < std::max<uint64_t>(want, copies > 0 ? 1 : 0)) {
      return absl::StrCat("expert ", e, " is on ", held, " workers instead of ", want);
    }
  }
  for (const auto& router : routers_) {
    if (router == nullptr) return "a router is down";
    if (router->placement() == nullptr || router->placement()->epoch < snapshot.active->epoch) {
      return "a router does not have the newest placement";
    }
  }
  return "";
}

Outcome Cluster::Run() {
  // Once faults have ceased: leases, a failed preparation, its pause, a client's longest pause, the
  // text that is left; generous, for a bound that only shows that nothing waits for ever.
  const MonotonicTime bound = calm_ + Duration::Millis(60'000);
  const Duration look = Duration::Millis(250);
  for (MonotonicTime next = world_.Now() + look; !world_.failed(); next = next + look) {
    while (world_.Next(next) && !world_.failed()) Collect();
    if (world_.failed() || world_.Now() < calm_) continue;
    const std::string unfinished = Unfinished();
    if (unfinished.empty()) break;
    if (world_.Now() >= bound) world_.Fail(absl::StrCat("not as it should be: ", unfinished));
  }
  // The processes add what they have counted as they end.
  requests_.clear();
  routers_.clear();
  workers_.clear();
  Outcome outcome;
  outcome.failure = world_.failure();
  outcome.hash = world_.hash();
  outcome.events = world_.events();
  outcome.simulated_seconds = (world_.Now() - start_).seconds();
  outcome.coverage = world_.coverage;
  return outcome;
}

void SilenceLog() {
  (void)google::protobuf::SetLogHandler(nullptr);
  SetLogLevel(static_cast<LogLevel>(static_cast<int>(LogLevel::kError) + 1));
}

Outcome RunPlan(const Plan& plan, const Bugs& bugs, bool trace) {
  return Cluster(plan, bugs, trace).Run();
}

}  // namespace octet::sim
