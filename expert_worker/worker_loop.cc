#include "expert_worker/worker_loop.h"

#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/mutex.h"
#include "core/shm_limits.h"
#include "expert_worker/job_queue.h"

namespace octet {

struct WorkerLoop::Impl {
  Impl(ComputeFn c, ComputeLayerFn layer, const Clock* k, LoadCounter* l, DoorbellWords* d)
      : compute(std::move(c)),
        compute_layer(std::move(layer)),
        clock(k),
        load(l),
        bell(d != nullptr ? d : &own_words),
        thread([this] { Run(); }) {}

  void Run();
  void Poll() OCTET_EXCLUDES(source_mu);
  void Compute(const std::vector<QueuedGroup>& batch);
  // One kernel call; several groups are gathered before it and scattered after it.
  absl::Status ComputeOne(const QueuedGroup& item);
  absl::Status ComputeJoined(const std::vector<QueuedGroup>& batch);
  // Any experts of one layer.
  absl::Status ComputeLayer(const std::vector<QueuedGroup>& batch);
  void Gather(const std::vector<QueuedGroup>& batch, size_t rows, ExpertInput* input);
  void Finish(ExpertJob* job);

  const ComputeFn compute;  // one of the two is set
  const ComputeLayerFn compute_layer;
  const Clock* const clock;
  LoadCounter* const load;
  DoorbellWords own_words{};
  Doorbell bell;

  Mutex source_mu;  // held while the source is polled
  JobSource* source OCTET_GUARDED_BY(source_mu) = nullptr;

  Mutex mu;
  CondVar idle;
  JobQueue queue OCTET_GUARDED_BY(mu);
  uint32_t jobs OCTET_GUARDED_BY(mu) = 0;
  uint64_t bytes OCTET_GUARDED_BY(mu) = 0;
  bool draining OCTET_GUARDED_BY(mu) = false;
  absl::Status condemned OCTET_GUARDED_BY(mu);
  bool stopping OCTET_GUARDED_BY(mu) = false;

  // Compute thread only; kept between calls.
  std::vector<int8_t> joined_q;
  std::vector<float> joined_scales;
  std::vector<float> joined_f32;
  std::vector<uint32_t> joined_rows;
  std::vector<float> joined_out;
  std::vector<ComputePart> parts;

  std::thread thread;  // last: starts when all else is made
};

void WorkerLoop::Impl::Poll() {
  MutexLock lock(source_mu);
  if (source != nullptr) source->Poll();
}

void WorkerLoop::Impl::Run() {
  for (;;) {
    const Doorbell::Seen seen = bell.seen();
    Poll();
    std::vector<QueuedGroup> batch;
    bool cancel = false;
    {
      MutexLock lock(mu);
      if (stopping && queue.empty()) return;
      cancel = stopping;
      if (!queue.empty()) {
        batch = compute_layer ? queue.TakeLayer(clock->Now()) : queue.Take(clock->Now());
      }
    }
    if (batch.empty()) {
      bell.Wait(seen, 1, Duration::Millis(kWorkerSleepMsMax));
      continue;
    }
    if (cancel) {
      for (const QueuedGroup& item : batch) {
        item.job->status = absl::CancelledError("the worker stops");
      }
    } else {
      Compute(batch);
    }
    for (const QueuedGroup& item : batch) {
      if (--item.job->groups_left == 0) Finish(item.job);
    }
  }
}

void WorkerLoop::Impl::Finish(ExpertJob* job) {
  {
    MutexLock lock(mu);
    if (!condemned.ok()) job->status = condemned;
  }
  const uint64_t freed = job->bytes;
  const std::function<void()> done = std::move(job->done);
  done();  // the job may be gone after this
  MutexLock lock(mu);
  --jobs;
  bytes -= freed;
  if (jobs == 0) idle.NotifyAll();
}

void WorkerLoop::Impl::Compute(const std::vector<QueuedGroup>& batch) {
  std::vector<QueuedGroup> wanted;
  const MonotonicTime start = clock->Now();
  for (const QueuedGroup& item : batch) {
    ExpertJob& job = *item.job;
    if (job.abandoned || !job.status.ok()) continue;
    if (!job.started) {
      job.started = true;
      job.queue_ns = static_cast<uint64_t>((start - job.submitted).ns);
    }
    wanted.push_back(item);
  }
  if (wanted.empty()) return;
  const absl::Status status = compute_layer        ? ComputeLayer(wanted)
                              : wanted.size() == 1 ? ComputeOne(wanted[0])
                                                   : ComputeJoined(wanted);
  const auto taken = static_cast<uint64_t>((clock->Now() - start).ns);
  load->AddKernelCall(taken);
  for (const QueuedGroup& item : wanted) {
    ExpertJob& job = *item.job;
    job.compute_ns += taken;
    job.status = status;
    const ExpertJob::Group& group = job.groups[item.group];
    if (status.ok()) load->AddRows(group.expert, group.rows.size());
  }
}

absl::Status WorkerLoop::Impl::ComputeOne(const QueuedGroup& item) {
  const ExpertJob& job = *item.job;
  const ExpertJob::Group& group = job.groups[item.group];
  const size_t hidden = job.format.hidden;
  const TensorF32 out(job.reply + group.reply_row * hidden, group.rows.size(), hidden);
  return compute(*group.weights, job.layer, job.input, group.rows, out);
}

void WorkerLoop::Impl::Gather(const std::vector<QueuedGroup>& batch, size_t rows,
                              ExpertInput* input) {
  const WireFormat& format = batch[0].job->format;
  const size_t width = format.padded_hidden();
  const size_t scales = format.groups();
  if (format.is_integer()) {
    joined_q.resize(rows * width);
    joined_scales.resize(rows * scales);
    input->q = {rows, width, format.activation_group, joined_q.data(), joined_scales.data()};
  } else {
    joined_f32.resize(rows * width);
    input->f32 = ConstTensorF32(joined_f32.data(), rows, width);
  }
  size_t to = 0;
  for (const QueuedGroup& item : batch) {
    const ExpertInput& from = item.job->input;
    for (const uint32_t row : item.job->groups[item.group].rows) {
      if (format.is_integer()) {
        std::memcpy(joined_q.data() + to * width, from.q.q + row * width, width);
        std::memcpy(joined_scales.data() + to * scales, from.q.scales + row * scales,
                    scales * sizeof(float));
      } else {
        std::memcpy(joined_f32.data() + to * width, from.f32.row(row), width * sizeof(float));
      }
      ++to;
    }
  }
}

absl::Status WorkerLoop::Impl::ComputeJoined(const std::vector<QueuedGroup>& batch) {
  size_t rows = 0;
  for (const QueuedGroup& item : batch) rows += item.job->groups[item.group].rows.size();
  ExpertInput input;
  Gather(batch, rows, &input);
  const ExpertJob& first = *batch[0].job;
  const size_t hidden = first.format.hidden;
  joined_rows.resize(rows);
  std::iota(joined_rows.begin(), joined_rows.end(), 0u);
  joined_out.resize(rows * hidden);
  const absl::Status status = compute(*first.groups[batch[0].group].weights, first.layer, input,
                                      joined_rows, TensorF32(joined_out.data(), rows, hidden));
  const float* from = joined_out.data();
  for (const QueuedGroup& item : batch) {
    const ExpertJob::Group& group = item.job->groups[item.group];
    const size_t count = group.rows.size() * hidden;
    std::memcpy(item.job->reply + group.reply_row * hidden, from, count * sizeof(float));
    from += count;
  }
  return status;
}

absl::Status WorkerLoop::Impl::ComputeLayer(const std::vector<QueuedGroup>& batch) {
  parts.clear();
  for (const QueuedGroup& item : batch) {
    const ExpertJob& job = *item.job;
    const ExpertJob::Group& group = job.groups[item.group];
    const size_t hidden = job.format.hidden;
    parts.push_back({group.weights.get(), &job.input, group.rows,
                     TensorF32(job.reply + group.reply_row * hidden, group.rows.size(), hidden),
                     job.on_device});
  }
  return compute_layer(batch[0].job->layer, parts);
}

WorkerLoop::WorkerLoop(ComputeFn compute, const Clock* clock, LoadCounter* load,
                       DoorbellWords* doorbell)
    : impl_(std::make_unique<Impl>(std::move(compute), nullptr, clock, load, doorbell)) {}

WorkerLoop::WorkerLoop(ComputeLayerFn compute, const Clock* clock, LoadCounter* load,
                       DoorbellWords* doorbell)
    : impl_(std::make_unique<Impl>(nullptr, std::move(compute), clock, load, doorbell)) {}

WorkerLoop::~WorkerLoop() {
  {
    MutexLock lock(impl_->mu);
    impl_->stopping = true;
    impl_->draining = true;
  }
  impl_->bell.RingNow();
  impl_->thread.join();
}

void WorkerLoop::SetSource(JobSource* source) {
  MutexLock lock(impl_->source_mu);
  impl_->source = source;
}

absl::Status WorkerLoop::Submit(ExpertJob* job) {
  {
    MutexLock lock(impl_->mu);
    if (!impl_->condemned.ok()) return impl_->condemned;
    if (impl_->draining) return absl::UnavailableError("the worker drains");
    if (impl_->jobs >= kWorkerQueuedFramesMax ||
        impl_->bytes + job->bytes > kWorkerQueuedBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat("the worker's queue is full: ", impl_->jobs,
                                                       " dispatches, ", impl_->bytes, " bytes"));
    }
    ++impl_->jobs;
    impl_->bytes += job->bytes;
    job->groups_left = job->groups.size();
    job->submitted = impl_->clock->Now();
    job->status = absl::OkStatus();
    job->compute_ns = 0;
    job->queue_ns = 0;
    job->started = false;
    impl_->queue.Add(job);
  }
  impl_->load->AddDispatch();
  // The compute thread itself is awake, and looks into the queue next.
  if (std::this_thread::get_id() != impl_->thread.get_id()) impl_->bell.Ring();
  return absl::OkStatus();
}

bool WorkerLoop::Drain(MonotonicTime deadline) {
  MutexLock lock(impl_->mu);
  impl_->draining = true;
  while (impl_->jobs > 0) {
    const Duration left = deadline - impl_->clock->Now();
    if (left.ns <= 0) return false;
    impl_->idle.WaitFor(impl_->mu,
                        std::chrono::nanoseconds(std::min(left.ns, Duration::Millis(100).ns)));
  }
  return true;
}

void WorkerLoop::Condemn(const absl::Status& why) {
  MutexLock lock(impl_->mu);
  impl_->condemned = why;
}

uint32_t WorkerLoop::queued() const {
  MutexLock lock(impl_->mu);
  return impl_->jobs;
}

}  // namespace octet
