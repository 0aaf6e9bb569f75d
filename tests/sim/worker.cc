#include "tests/sim/worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/grpc/dispatch_message.h"

namespace octet::sim {

std::string Worker::Address(uint32_t node) { return absl::StrCat("worker:", node); }

Worker::Worker(World* world, uint32_t node, const WorkerSettings& settings,
               const WorkerWeather* weather, CoordinatorAt coordinators)
    : world_(world),
      node_(node),
      settings_(settings),
      weather_(weather),
      store_(MakeModel()),
      shape_(ShapeOf(store_.model())),
      executor_(&store_),
      rows_per_expert_(settings.model.experts) {
  world_->Start(node);
  process_ = world_->process(node);
  MemberRecord record;
  record.role = MemberRole::kWorker;
  record.address = Address(node);
  record.incarnation = world_->Random() >> 2;
  record.host = record.address;
  record.memory_bytes = settings.memory_experts * kSimExpertBytes;
  record.speed = settings.speed;
  ModelSummary model;
  model.compute_digest = store_.model().compute_digest;
  model.model_version = "1";
  model.name = "sim";
  model.experts = settings.model.experts;
  model.layers = settings.model.layers;
  model.expert_bytes = kSimExpertBytes;
  Member::Callbacks callbacks;
  callbacks.report = [this] { return Report(); };
  callbacks.on_placement = [this](const PlacementUpdate& update) {
    if (updates_.size() >= kPlacementUpdatesMax) updates_.pop_front();
    updates_.push_back(update);
    if (fiber_idle_) world_->In(process_, Duration{}, [this] { fiber_->Resume(); });
    fiber_idle_ = false;
  };
  member_ = std::make_shared<Member>(world_, node, record, model, std::move(coordinators),
                                     std::move(callbacks));
  fiber_ = std::make_unique<Fiber>([this] { FollowPlacements(); });
  world_->In(process_, Duration{}, [this] {
    fiber_->Resume();
    member_->Start();
  });
}

Worker::~Worker() {
  if (world_->Lives(process_)) world_->Kill(node_);
  ending_ = true;
  member_.reset();
  if (!fiber_->ended()) fiber_->Resume();  // whatever it waits for ends at once
}

WorkerModel Worker::MakeModel() {
  WorkerModel model;
  model.name = "sim";
  model.compute_digest = settings_.model.Digest();
  model.model_version = "1";
  model.experts = settings_.model.experts;
  model.formats.assign(settings_.model.layers, settings_.model.Format());
  model.expert_bytes = kSimExpertBytes;
  model.load = [this](ExpertId expert) { return Load(expert); };
  return model;
}

void Worker::WaitInFiber(Duration length) {
  if (ending_) return;
  world_->In(process_, length, [this] { fiber_->Resume(); });
  fiber_->Suspend();
}

absl::StatusOr<MappedExpert> Worker::Load(ExpertId expert) {
  WaitInFiber(world_->Between(Duration{settings_.load.ns / 4}, settings_.load));
  if (ending_) return absl::CancelledError("the process ends");
  if (weather_->load_fails_until > world_->Now()) {
    world_->Cover(Covered::kLoadFailed);
    return absl::DataLossError("the weights are damaged");
  }
  MappedExpert mapped;
  mapped.bytes = kSimExpertBytes + expert.value();  // which one it is, for the kernel
  return mapped;
}

void Worker::FollowPlacements() {
  while (!ending_) {
    if (updates_.empty()) {
      fiber_idle_ = true;
      fiber_->Suspend();
      continue;
    }
    const PlacementUpdate update = std::move(updates_.front());
    updates_.pop_front();
    executor_.CarryOut(update);
    if (ending_) return;
    const Epoch active = store_.active_epoch();
    if (active < active_epoch_) world_->Fail("a worker's active epoch went back");
    active_epoch_ = active;
    world_->Note("worker followed", node_, active.value(), store_.Held().size());
    member_->ReportNow();
  }
}

MemberReport Worker::Report() const {
  MemberReport report;
  const FollowState state = executor_.state();
  report.state = draining_       ? MemberState::kDraining
                 : state.serving ? MemberState::kReady
                                 : MemberState::kLoading;
  report.prepared_epoch = store_.prepared_epoch();
  report.active_epoch = store_.active_epoch();
  report.held = store_.Held();
  report.prepare_error = state.prepare_error;
  report.prepare_error_epoch = state.prepare_error_epoch;
  report.load.expert_rows = rows_per_expert_;
  return report;
}

void Worker::Drain() {
  draining_ = true;
  member_->ReportNow();
  // Routers are led away first; then what is under way ends.
  world_->In(process_, Duration::Millis(2'000), [this] { refusing_ = true; });
}

bool Worker::drained() const {
  return draining_ && jobs_.empty() && (refusing_ || !executor_.state().serving);
}

void Worker::OnDispatch(const std::shared_ptr<Connection>& stream,
                        std::shared_ptr<octet::v1::Dispatch> message, ReplyFn reply) {
  if (!SealFits(*message)) {
    world_->Cover(Covered::kBrokenSeal);
    stream->Break();
    return;
  }
  auto job = std::make_unique<Job>();
  job->stream = stream;
  job->request = std::move(message);
  job->reply = std::move(reply);
  absl::Status status =
      AdmitDispatch(ViewOf(*job->request, &job->groups), store_, shape_, &job->job);
  if (status.ok() && refusing_) status = absl::UnavailableError("the worker drains");
  if (status.ok() && jobs_.size() >= settings_.queue_max) {
    status = absl::ResourceExhaustedError("the worker's queue is full");
  }
  if (!status.ok()) return Refuse(*job, status);
  job->reply_rows = ReplyRows(*job->request);
  job->rows.resize(job->reply_rows * kSimHidden);
  job->job.reply = job->rows.data();
  job->job.groups_left = job->job.groups.size();
  job->job.submitted = world_->Now();
  queue_.Add(&job->job);
  jobs_[&job->job] = std::move(job);
  ComputeNext();
}

void Worker::Refuse(const Job& job, const absl::Status& status) {
  world_->Note("worker refuses", node_, static_cast<uint64_t>(status.code()));
  if (absl::IsNotFound(status)) world_->Cover(Covered::kWorkerRefusedNotHeld);
  if (absl::IsResourceExhausted(status)) world_->Cover(Covered::kWorkerRefusedOverload);
  if (absl::IsInvalidArgument(status)) world_->Cover(Covered::kWorkerRefusedMalformed);
  if (absl::IsUnavailable(status)) world_->Cover(Covered::kWorkerRefusedDraining);
  auto reply = std::make_shared<octet::v1::DispatchReply>();
  *reply->mutable_key() = job.request->key();
  reply->set_error(DispatchErrorFromStatus(status));
  reply->set_message(std::string(status.message()));
  Seal(reply.get());
  job.reply(std::move(reply));
}

// One kernel call at a time, as the compute thread.
void Worker::ComputeNext() {
  if (computing_ || queue_.empty()) return;
  std::vector<QueuedGroup> batch = queue_.Take(world_->Now());
  computing_ = true;
  Duration takes = world_->Between(Duration{settings_.compute.ns / 4}, settings_.compute);
  if (weather_->slow_until > world_->Now()) {
    takes.ns *= static_cast<int64_t>(weather_->slow_factor);
  }
  world_->In(process_, takes, [this, batch = std::move(batch)] {
    computing_ = false;
    Finish(batch);
    ComputeNext();
  });
}

void Worker::Finish(const std::vector<QueuedGroup>& batch) {
  for (const QueuedGroup& item : batch) {
    ExpertJob& job = *item.job;
    const ExpertJob::Group& group = job.groups[item.group];
    LayerId layer = job.layer;
    if (settings_.bug.wrong_layer && world_->OneIn(200)) layer = LayerId(layer.value() + 1);
    // The weights that the job holds decide, not what it was asked for.
    const ExpertId expert(static_cast<uint32_t>(group.weights->bytes - kSimExpertBytes));
    rows_per_expert_[expert.value()] += group.rows.size();
    float* out = job.reply + group.reply_row * kSimHidden;
    for (const uint32_t row : group.rows) {
      SimModel::Expert(layer, expert, job.input.f32.row(row), out);
      out += kSimHidden;
    }
    if (--job.groups_left > 0) continue;
    const auto found = jobs_.find(&job);
    Answer(found->second.get());
    jobs_.erase(found);
  }
}

void Worker::Answer(Job* job) {
  auto reply = std::make_shared<octet::v1::DispatchReply>();
  *reply->mutable_key() = job->request->key();
  EncodeReplyRows(job->rows.data(), job->reply_rows, settings_.model.Format(), reply.get());
  Seal(reply.get());
  job->reply(std::move(reply));
}

}  // namespace octet::sim
