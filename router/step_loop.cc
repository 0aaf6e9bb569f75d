#include "router/step_loop.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/limits.h"
#include "core/log.h"

namespace octet {

namespace {

// Each holds memory for a vocabulary.
constexpr size_t kSamplersMax = 8;

}  // namespace

StepLoop::StepLoop(ForwardPass* transformer, const Tokenizer* tokenizer, const Clock* clock,
                   const SchedulerOptions& options, uint32_t micro_batches, TierAccess tier)
    : transformer_(transformer),
      tokenizer_(tokenizer),
      clock_(clock),
      scheduler_(options),
      micro_batches_(micro_batches),
      tier_(std::move(tier)) {
  const ThreadPool* pool = transformer->context().pool;
  const size_t threads = pool == nullptr ? 1 : static_cast<size_t>(pool->threads());
  const size_t samplers = std::min(threads, kSamplersMax);
  samplers_.reserve(samplers);
  for (size_t i = 0; i < samplers; ++i) samplers_.emplace_back(transformer->config().vocab);
  rows_.reserve(transformer->logit_rows_max());
  stats_.kv_blocks_total = scheduler_.blocks_total();
}

void StepLoop::Add(IncomingRequest incoming) {
  GenerationRequest& request = incoming.request;
  ScheduledRequest scheduled;
  scheduled.id = incoming.id;
  scheduled.resumed = request.resumed();
  scheduled.tokens = std::move(request.prompt);
  scheduled.prompt_tokens = static_cast<uint32_t>(scheduled.tokens.size());
  scheduled.tokens_max = scheduled.prompt_tokens + incoming.tokens_max;
  // A resumed stream has had them.
  scheduled.prompt_logprobs = request.prompt_logprobs && request.resume_index == 0;
  scheduled.deadline = request.deadline;
  if (!request.cache_salt.empty()) {
    scheduled.table.salt = std::make_shared<const std::string>(std::move(request.cache_salt));
  }
  const uint32_t prompt_tokens = scheduled.prompt_tokens;
  auto active = std::make_unique<Active>();
  active->output = std::make_unique<RequestOutput>(
      tokenizer_, request.stop, transformer_->config().eos_ids, request.skip_special_tokens,
      request.resume_index, incoming.tokens_max);
  const absl::Status status = Replay(request.resume_tokens, active.get(), &scheduled.tokens);
  active->request = std::move(request);
  active->sink = std::move(incoming.sink);
  active->prompt_tokens = prompt_tokens;
  active->cost = incoming.cost;
  active->submitted = incoming.submitted;
  if (!status.ok()) return Refuse(*active, status);
  if (tier_.tier != nullptr) {
    const RequestId id = scheduled.id;
    auto missing = scheduler_.MissingBlocks(&scheduled, &scheduled.staged_begin);
    if (!missing.empty()) {
      fetching_.emplace(id, Fetching{std::move(scheduled), std::move(active)});
      tier_.tier->Fetch(std::move(missing), [this, id](std::vector<StagedBlock> blocks) {
        tier_.on_fetched(id, std::move(blocks));
      });
      return;
    }
  }
  Submit(std::move(scheduled), std::move(active));
}

void StepLoop::Refuse(const Active& active, const absl::Status& status) {
  NoteAdmitted(active.cost);
  ++flow_.ended;
  active.sink->OnError(status);
}

void StepLoop::Submit(ScheduledRequest scheduled, std::unique_ptr<Active> active) {
  const RequestId id = scheduled.id;
  const absl::Status status = scheduler_.Submit(std::move(scheduled));
  if (!status.ok()) return Refuse(*active, status);
  stats_.prompt_tokens += active->prompt_tokens;
  active_.emplace(id, std::move(active));
}

void StepLoop::Fetched(RequestId id, std::vector<StagedBlock> blocks) {
  const auto it = fetching_.find(id);
  if (it == fetching_.end()) return;
  Fetching fetching = std::move(it->second);
  fetching_.erase(it);
  if (!fetching.stale) fetching.scheduled.staged = std::move(blocks);
  Submit(std::move(fetching.scheduled), std::move(fetching.active));
}

void StepLoop::LoadBlocks(const StepPlan& plan) {
  for (const BlockLoad& load : plan.loads) {
    const std::vector<uint8_t>& bytes = load.bytes.bytes();
    std::memcpy(tier_.cache->block(load.block), bytes.data(), bytes.size());
  }
}

void StepLoop::StoreBlocks() {
  for (const FullBlock& full : scheduler_.full_blocks()) {
    tier_.tier->Store(full.key, tier_.cache->block(full.block));
  }
}

absl::Status StepLoop::Replay(const std::vector<TokenId>& resumed, Active* active,
                              std::vector<TokenId>* tokens) {
  if (resumed.empty()) return absl::OkStatus();
  // The last one is drawn again: that may end the answer, and shows that it is this request's.
  active->redrawn = resumed.back();
  for (size_t i = 0; i + 1 < resumed.size(); ++i) {
    if (active->output->OnToken(resumed[i], std::nullopt).finish.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "resume_token_ids: the answer ends with number ", i, " of ", resumed.size()));
    }
    tokens->push_back(resumed[i]);
  }
  return absl::OkStatus();
}

void StepLoop::Fail(RequestId id, const absl::Status& status) {
  const auto waiting = fetching_.find(id);
  if (waiting != fetching_.end()) {
    const std::unique_ptr<Active> active = std::move(waiting->second.active);
    fetching_.erase(waiting);
    return Refuse(*active, status);
  }
  const auto it = active_.find(id);
  if (it == active_.end()) return;
  const std::shared_ptr<GenerationSink> sink = it->second->sink;
  End(id);
  sink->OnError(status);
}

bool StepLoop::NoteWorkers(const Batch& batch) {
  const WorkerUse use = transformer_->TakeWorkerUse();
  for (const BatchSequence& sequence : batch.sequences) {
    std::vector<WorkerId>& workers = active_.at(sequence.request)->workers;
    for (const WorkerId worker : use.used) WorkerUse::Add(worker, &workers);
  }
  bool sound = true;
  for (const WorkerId worker : use.damaged) sound = !WorkerDamaged(worker) && sound;
  return sound;
}

bool StepLoop::WorkerDamaged(WorkerId worker) {
  const auto contains = [&](const auto& ids) {
    return std::find(ids.begin(), ids.end(), worker) != ids.end();
  };
  if (contains(workers_damaged_)) return false;
  workers_damaged_.push_back(worker);
  if (workers_damaged_.size() > kWorkersMax) workers_damaged_.pop_front();
  std::vector<RequestId> suspects;
  for (const auto& [id, active] : active_) {
    if (contains(active->workers) || scheduler_.Find(id)->reused) suspects.push_back(id);
  }
  LogError("worker ", worker.value(), " found its weights damaged: ", suspects.size(),
           " requests end, the prefix cache is emptied");
  for (const RequestId id : suspects) {
    Fail(id, absl::DataLossError(
                 absl::StrCat("expert worker ", worker.value(),
                              " found its weights damaged: this answer may be wrong; ask again")));
  }
  for (auto& entry : fetching_) entry.second.stale = true;
  scheduler_.ForgetCache();
  if (tier_.tier != nullptr) tier_.tier->Clear();
  return true;
}

void StepLoop::FailAll(const absl::Status& status) {
  while (!fetching_.empty()) Fail(fetching_.begin()->first, status);
  while (!active_.empty()) Fail(active_.begin()->first, status);
}

void StepLoop::End(RequestId id) {
  const auto it = active_.find(id);
  if (!it->second->admitted.has_value()) NoteAdmitted(it->second->cost);
  ++flow_.ended;
  scheduler_.Remove(id);
  active_.erase(it);
}

void StepLoop::NoteAdmitted(uint64_t cost) {
  ++flow_.admitted;
  flow_.admitted_tokens += cost;
}

absl::Status StepLoop::Forward(const Batch& batch, MonotonicTime now) {
  const uint32_t parts = micro_batches_.Choose(batch.prefill, batch.rows());
  // Only a missing replica ends a step early; one request's deadline must not cost the others
  // theirs.
  const absl::Status status =
      transformer_->Forward(batch, parts, now + Duration::Millis(kStepWaitMs));
  if (status.ok()) {
    micro_batches_.Observe((clock_->Now() - now).millis());
    if (parts > 1) ++stats_.split_steps;
  }
  return status;
}

bool StepLoop::Step() {
  const MonotonicTime begin = clock_->Now();
  const StepPlan& plan = scheduler_.Plan(begin);
  NotePlan(plan, begin);
  if (plan.batch.empty()) return false;
  LoadBlocks(plan);

  stalled_ = Forward(plan.batch, begin);
  if (!stalled_.ok()) {
    // Without a replica the step is run again, until one is there or the requests' time is up.
    if (absl::IsUnavailable(stalled_)) {
      NoteWorkers(plan.batch);
      return true;
    }
    for (const BatchSequence& sequence : plan.batch.sequences) Fail(sequence.request, stalled_);
    return true;
  }
  if (!NoteWorkers(plan.batch)) return true;
  ++stats_.steps;
  scheduler_.CommitStep();
  StoreBlocks();
  SampleBatch(plan.batch);
  scheduler_.ObserveStep((clock_->Now() - begin).millis());
  return true;
}

absl::Status StepLoop::ExpiryStatus() const {
  if (stalled_.ok()) return absl::DeadlineExceededError("the deadline of the request has passed");
  return absl::UnavailableError(
      absl::StrCat("no expert replica until the deadline: ", std::string(stalled_.message())));
}

void StepLoop::NotePlan(const StepPlan& plan, MonotonicTime now) {
  for (const RequestId id : plan.expired) Fail(id, ExpiryStatus());
  for (const RequestId id : plan.admitted) {
    Active& active = *active_.at(id);
    if (active.admitted.has_value()) continue;
    active.admitted = now;
    NoteAdmitted(active.cost);
  }
  stats_.preemptions += plan.preempted.size();
}

void StepLoop::SampleBatch(const Batch& batch) {
  const size_t total = batch.logit_rows.size();
  auto sequence = batch.sequences.begin();
  for (size_t begin = 0; begin < total;) {
    const size_t count = std::min(total - begin, transformer_->logit_rows_max());
    const absl::StatusOr<ConstTensorF32> logits = transformer_->Logits(batch, begin, count);
    if (!logits.ok()) {
      for (const BatchSequence& s : batch.sequences) Fail(s.request, logits.status());
      return;
    }
    rows_.clear();
    for (size_t i = begin; i < begin + count; ++i) {
      while (i >= sequence->logit_begin + sequence->logit_count) ++sequence;
      const bool last = i + 1 == sequence->logit_begin + sequence->logit_count;
      rows_.push_back({sequence->request, batch.positions[batch.logit_rows[i]], last,
                       last && sequence->sample,
                       absl::MakeConstSpan(logits->row(i - begin), logits->cols), RowOutcome()});
    }
    ExamineRows();
    for (LogitRow& row : rows_) HandleRow(&row);
    begin += count;
  }
}

// Rows are independent of each other: each is of another sequence, or of the prompt.
void StepLoop::ExamineRows() {
  constexpr size_t kInlineLogits = 1 << 11;  // fewer are not worth a second thread
  ThreadPool* pool = transformer_->context().pool;
  const size_t logits = rows_.size() * transformer_->config().vocab;
  const size_t shares =
      pool == nullptr || logits < kInlineLogits ? 1 : std::min(rows_.size(), samplers_.size());
  const auto examine = [&](size_t share, int) {
    for (size_t i = share; i < rows_.size(); i += shares) Examine(&rows_[i], &samplers_[share]);
  };
  if (shares == 1) {
    examine(0, 0);
  } else {
    pool->ParallelFor(shares, examine);
  }
}

void StepLoop::Examine(LogitRow* row, Sampler* sampler) const {
  RowOutcome& outcome = row->outcome;
  const LogitScan scan = ScanLogits(row->logits);
  outcome.finite = scan.finite;
  const auto it = active_.find(row->request);
  if (!scan.finite || it == active_.end()) return;
  const Active& active = *it->second;
  const absl::Span<const TokenId> tokens = scheduler_.Find(row->request)->tokens;
  const uint32_t top = active.request.top_logprobs;
  if (!row->sample) {
    outcome.token = tokens[row->position + 1];
    outcome.logprob = ComputeLogprob(row->logits, outcome.token, top);
    return;
  }
  SampleInput input;
  input.logits = row->logits;
  input.best = scan.best;
  input.prompt = tokens.subspan(0, active.prompt_tokens);
  input.output = tokens.subspan(active.prompt_tokens);
  input.settings = &active.request.sampling;
  input.forbidden = active.output->forbidden();
  outcome.token = sampler->Sample(input);
  if (active.request.logprobs || top > 0) {
    outcome.logprob = ComputeLogprob(row->logits, outcome.token, top);
  }
}

void StepLoop::HandleRow(LogitRow* row) {
  const auto it = active_.find(row->request);
  if (it == active_.end()) return;  // an earlier row failed the request
  Active* active = it->second.get();
  if (!row->outcome.finite) {
    Fail(row->request, absl::InternalError(absl::StrCat(
                           "the model gave NaN or infinite logits at position ", row->position)));
    return;
  }
  if (!row->sample) active->prompt_logprobs.push_back(*std::move(row->outcome.logprob));
  if (row->last && !active->prompt_logprobs.empty()) {
    GenerationChunk chunk;
    chunk.prompt_logprobs = std::exchange(active->prompt_logprobs, {});
    active->sink->OnChunk(std::move(chunk));
  }
  if (row->sample) TakeToken(row->request, active, &row->outcome);
}

void StepLoop::TakeToken(RequestId id, Active* active, RowOutcome* outcome) {
  const std::optional<TokenId> before = std::exchange(active->redrawn, std::nullopt);
  if (before.has_value() && *before != outcome->token) {
    return Fail(id, absl::AbortedError(absl::StrCat("resume_token_ids: the last one is ", *before,
                                                    ", but this request's is ", outcome->token)));
  }
  ++stats_.generated_tokens;
  if (!active->first_token.has_value()) active->first_token = clock_->Now();
  RequestOutput::Step step = active->output->OnToken(outcome->token, std::move(outcome->logprob));
  if (step.chunk.has_value()) active->sink->OnChunk(*std::move(step.chunk));
  if (step.finish.has_value()) {
    Finish(id, active, *step.finish);
  } else {
    scheduler_.CommitToken(id, outcome->token);
  }
}

void StepLoop::Finish(RequestId id, Active* active, FinishReason reason) {
  const MonotonicTime now = clock_->Now();
  GenerationResult result;
  result.reason = reason;
  result.stop_match = active->output->stop_match();
  result.usage.prompt_tokens = active->prompt_tokens;
  result.usage.completion_tokens = active->output->tokens();
  const ScheduledRequest& scheduled = *scheduler_.Find(id);
  result.usage.cached_tokens = scheduled.cached_tokens;
  result.usage.preemptions = scheduled.preemptions;
  result.usage.queue_ms = (*active->admitted - active->submitted).millis();
  result.usage.prefill_ms = (*active->first_token - *active->admitted).millis();
  result.usage.decode_ms = (now - *active->first_token).millis();
  const std::shared_ptr<GenerationSink> sink = active->sink;
  End(id);
  sink->OnFinished(std::move(result));
}

StepLoop::Flow StepLoop::TakeFlow() { return std::exchange(flow_, Flow()); }

EngineStats StepLoop::stats() const {
  EngineStats stats = stats_;
  stats.running = static_cast<uint32_t>(scheduler_.running());
  stats.waiting = static_cast<uint32_t>(scheduler_.waiting());
  stats.kv_blocks_used = scheduler_.blocks_used();
  stats.kv_blocks_idle = scheduler_.blocks_idle();
  stats.prefix_cache_queries = scheduler_.prefix_cache_stats().queries;
  stats.prefix_cache_hits = scheduler_.prefix_cache_stats().hits;
  return stats;
}

}  // namespace octet
