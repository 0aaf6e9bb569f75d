#include "kernels/fake_gpu/fake_device.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "core/mutex.h"

namespace octet::fake_gpu {
namespace {

constexpr int kDevices = 2;
constexpr size_t kAlignment = 256;
constexpr uint64_t kMemoryBytes = uint64_t{4} << 30;
// What memory holds before anything is written, so that reading it shows.
constexpr uint8_t kUnwritten = 0xa5;

thread_local int current_device = 0;

size_t Padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

struct Allocation {
  size_t bytes = 0;
  int device = 0;  // -1: page-locked memory of the host
};

struct Stream {
  explicit Stream(int d) : device(d), thread([this] { Work(); }) {}
  ~Stream() {
    {
      MutexLock lock(mu);
      ending = true;
      changed.NotifyAll();
    }
    thread.join();
  }
  void Work();
  void Push(std::function<void()> task) {
    MutexLock lock(mu);
    tasks.push_back(std::move(task));
    changed.NotifyAll();
  }
  void WaitUntilIdle() {
    MutexLock lock(mu);
    while (busy || !tasks.empty()) changed.Wait(mu);
  }

  const int device;
  Arena arena;  // of its thread
  Mutex mu;
  CondVar changed;
  std::deque<std::function<void()>> tasks OCTET_GUARDED_BY(mu);
  bool busy OCTET_GUARDED_BY(mu) = false;
  bool ending OCTET_GUARDED_BY(mu) = false;
  // What is captured; belongs to the thread that captures.
  bool capturing = false;
  std::vector<std::function<void()>> captured;
  std::thread thread;  // starts when all else is there
};

struct Graph {
  std::vector<std::function<void()>> tasks;
};

struct Event {
  std::chrono::steady_clock::time_point time;
  Stream* stream = nullptr;
};

// Of the process; never destroyed, as streams may outlive main's statics.
struct Machine {
  Mutex mu;
  std::map<uintptr_t, Allocation> memory OCTET_GUARDED_BY(mu);
  uint64_t used[kDevices] OCTET_GUARDED_BY(mu) = {};
  int error[kDevices] OCTET_GUARDED_BY(mu) = {};
  std::map<Stream*, std::shared_ptr<Stream>> streams OCTET_GUARDED_BY(mu);
  std::shared_ptr<Stream> own[kDevices] OCTET_GUARDED_BY(mu);

  // The allocation around [data, data + bytes), or null.
  const Allocation* Find(const void* data, size_t bytes) OCTET_REQUIRES(mu) {
    const auto at = reinterpret_cast<uintptr_t>(data);
    auto it = memory.upper_bound(at);
    if (it == memory.begin()) return nullptr;
    --it;
    return at + bytes <= it->first + it->second.bytes ? &it->second : nullptr;
  }
};

Machine& TheMachine() {
  static Machine* const machine = new Machine;
  return *machine;
}

Stream* StreamOf(cuda::Stream stream) {
  if (stream != nullptr) return static_cast<Stream*>(stream);
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  std::shared_ptr<Stream>& own = m.own[current_device];
  if (own == nullptr) own = std::make_shared<Stream>(current_device);
  return own.get();
}

int ErrorOf(int device) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  return m.error[device];
}

void Fail(int device) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  m.error[device] = kIllegalAddress;
}

void Stream::Work() {
  for (;;) {
    std::function<void()> task;
    {
      MutexLock lock(mu);
      while (tasks.empty() && !ending) changed.Wait(mu);
      if (tasks.empty()) return;
      task = std::move(tasks.front());
      tasks.pop_front();
      busy = true;
    }
    task();
    task = nullptr;
    MutexLock lock(mu);
    busy = false;
    changed.NotifyAll();
  }
}

int Allocate(size_t bytes, int device, void** out) {
  *out = nullptr;
  Machine& m = TheMachine();
  const size_t size = Padded(bytes);
  {
    MutexLock lock(m.mu);
    if (device >= 0 && m.error[device] != 0) return m.error[device];
    if (device >= 0 && m.used[device] + size > kMemoryBytes) return kOutOfMemory;
    if (device >= 0) m.used[device] += size;
  }
  void* const memory = std::aligned_alloc(kAlignment, size == 0 ? kAlignment : size);
  if (memory == nullptr) return kOutOfMemory;
  std::memset(memory, kUnwritten, size);
  MutexLock lock(m.mu);
  m.memory[reinterpret_cast<uintptr_t>(memory)] = {bytes, device};
  *out = memory;
  return 0;
}

// As the real ones, only when all that runs on the device has ended.
void Release(void* memory) {
  if (memory == nullptr) return;
  Machine& m = TheMachine();
  std::vector<std::shared_ptr<Stream>> streams;
  {
    MutexLock lock(m.mu);
    for (const auto& entry : m.streams) streams.push_back(entry.second);
    for (const auto& own : m.own) {
      if (own != nullptr) streams.push_back(own);
    }
  }
  for (const auto& stream : streams) stream->WaitUntilIdle();
  MutexLock lock(m.mu);
  const auto it = m.memory.find(reinterpret_cast<uintptr_t>(memory));
  if (it == m.memory.end()) return;
  if (it->second.device >= 0) {
    m.used[it->second.device] -= Padded(it->second.bytes);
  }
  m.memory.erase(it);
  std::free(memory);
}

// True where memory is neither a device's nor page-locked: then a copy does not go on by itself.
bool IsPageable(const void* data, size_t bytes) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  return m.Find(data, bytes) == nullptr;
}

// Of the stream's device, or of the host.
bool MayCopy(int device, const void* data, size_t bytes) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  const Allocation* const found = m.Find(data, bytes);
  return found == nullptr || found->device == -1 || found->device == device;
}

int PushTask(Stream* stream, std::function<void()> task) {
  if (stream->capturing) {
    stream->captured.push_back(std::move(task));
    return 0;
  }
  stream->Push(std::move(task));
  return ErrorOf(stream->device);
}

int Copy(cuda::Stream stream, void* to, const void* from, size_t bytes) {
  Stream* const s = StreamOf(stream);
  const bool pageable_from = IsPageable(from, bytes), pageable_to = IsPageable(to, bytes);
  if (s->capturing && (pageable_from || pageable_to)) return kCaptureUnsupported;
  std::shared_ptr<std::vector<uint8_t>> staged;
  if (pageable_from) {
    const auto* const begin = static_cast<const uint8_t*>(from);
    staged = std::make_shared<std::vector<uint8_t>>(begin, begin + bytes);
  }
  const int error = PushTask(s, [=, device = s->device] {
    if (!MayCopy(device, to, bytes) || !MayCopy(device, from, bytes)) return Fail(device);
    std::memcpy(to, staged != nullptr ? staged->data() : from, bytes);
  });
  if (pageable_to) s->WaitUntilIdle();
  return error;
}

int DeviceProperties(int device, cuda::DeviceProperties* out) {
  if (device < 0 || device >= kDevices) return kInvalidDevice;
  *out = {};
  std::snprintf(out->name, sizeof(out->name), "no GPU, a fake in host memory");
  out->compute_major = 9;
  out->multiprocessors = 1;
  out->memory_bytes = kMemoryBytes;
  return 0;
}

int CreateStream(cuda::Stream* out) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  auto stream = std::make_shared<Stream>(current_device);
  *out = stream.get();
  m.streams[stream.get()] = std::move(stream);
  return 0;
}

void DestroyStream(cuda::Stream stream) {
  Machine& m = TheMachine();
  std::shared_ptr<Stream> gone;  // here, without the lock: what is on it still runs
  MutexLock lock(m.mu);
  const auto it = m.streams.find(static_cast<Stream*>(stream));
  if (it == m.streams.end()) return;
  gone = std::move(it->second);
  m.streams.erase(it);
}

int Synchronize(cuda::Stream stream) {
  Stream* const s = StreamOf(stream);
  if (s->capturing) return kCaptureUnsupported;
  s->WaitUntilIdle();
  return ErrorOf(s->device);
}

int EndCapture(cuda::Stream stream, cuda::Graph* out) {
  Stream* const s = StreamOf(stream);
  s->capturing = false;
  *out = new Graph{std::move(s->captured)};
  s->captured.clear();
  return 0;
}

int RecordEvent(cuda::Stream stream, void* event) {
  auto* const e = static_cast<Event*>(event);
  e->stream = StreamOf(stream);
  return PushTask(e->stream, [e] { e->time = std::chrono::steady_clock::now(); });
}

int ElapsedMs(void* from, void* to, float* out) {
  const auto* const a = static_cast<Event*>(from);
  const auto* const b = static_cast<Event*>(to);
  if (a->stream == nullptr || b->stream == nullptr) return kInvalidValue;
  b->stream->WaitUntilIdle();
  *out = std::chrono::duration<float, std::milli>(b->time - a->time).count();
  return ErrorOf(b->stream->device);
}

}  // namespace

const char* ErrorText(int error) {
  switch (error) {
    case 0:
      return "no error";
    case kInvalidValue:
      return "invalid argument";
    case kOutOfMemory:
      return "out of memory";
    case kInvalidDevice:
      return "invalid device ordinal";
    case kIllegalAddress:
      return "an illegal memory access was encountered";
    case kCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "unknown error";
  }
}

Kernel::Kernel(int device, Arena* arena) : device_(device) {
  static const CpuLevel level = DetectCpuLevel();
  ctx_.level = level;
  ctx_.arena = arena;
}

bool Kernel::Owns(const void* data, size_t bytes) const {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  const Allocation* const found = m.Find(data, bytes);
  return found != nullptr && found->device == device_;
}

int Launch(cuda::Stream stream, std::function<void(Kernel&)> work) {
  Stream* const s = StreamOf(stream);
  return PushTask(s, [s, work = std::move(work)] {
    if (ErrorOf(s->device) != 0) return;
    Kernel kernel(s->device, &s->arena);
    work(kernel);
    if (!kernel.reaches()) Fail(s->device);
  });
}

int LaunchWaiting(cuda::Stream stream, std::function<void()> work) {
  Stream* const s = StreamOf(stream);
  if (s->capturing) return kCaptureUnsupported;
  return PushTask(s, std::move(work));
}

bool StreamReaches(cuda::Stream stream, const void* data, size_t bytes) {
  return Kernel(StreamOf(stream)->device, nullptr)
      .Reaches(static_cast<const uint8_t*>(data), bytes);
}

void AddRuntime(cuda::CudaApi* api) {
  api->version = cuda::kCudaApiVersion;
  api->error_text = ErrorText;
  api->device_count = [](int* count) {
    *count = kDevices;
    return 0;
  };
  api->set_device = [](int device) {
    if (device < 0 || device >= kDevices) return kInvalidDevice;
    current_device = device;
    return ErrorOf(device);
  };
  api->device_properties = DeviceProperties;
  api->memory_free = [](uint64_t* bytes) {
    Machine& m = TheMachine();
    MutexLock lock(m.mu);
    *bytes = kMemoryBytes - m.used[current_device];
    return m.error[current_device];
  };
  api->allocate = [](size_t bytes, void** out) { return Allocate(bytes, current_device, out); };
  api->release = Release;
  api->allocate_host = [](size_t bytes, void** out) { return Allocate(bytes, -1, out); };
  api->release_host = Release;
  api->create_stream = CreateStream;
  api->destroy_stream = DestroyStream;
  api->synchronize = Synchronize;
  api->copy = Copy;
  api->fill = [](cuda::Stream stream, void* to, uint8_t byte, size_t bytes) {
    return Launch(stream, [=](Kernel& k) {
      if (k.Reaches(static_cast<uint8_t*>(to), bytes)) std::memset(to, byte, bytes);
    });
  };
  api->begin_capture = [](cuda::Stream stream) {
    Stream* const s = StreamOf(stream);
    if (s->capturing) return kCaptureUnsupported;
    s->capturing = true;
    return ErrorOf(s->device);
  };
  api->end_capture = EndCapture;
  api->launch_graph = [](cuda::Stream stream, cuda::Graph graph) {
    Stream* const s = StreamOf(stream);
    for (const auto& task : static_cast<Graph*>(graph)->tasks) {
      if (const int error = PushTask(s, task); error != 0) return error;
    }
    return 0;
  };
  api->destroy_graph = [](cuda::Graph graph) { delete static_cast<Graph*>(graph); };
  api->create_event = [](void** out) {
    *out = new Event;
    return 0;
  };
  api->destroy_event = [](void* event) { delete static_cast<Event*>(event); };
  api->record_event = RecordEvent;
  api->elapsed_ms = ElapsedMs;
}

}  // namespace octet::fake_gpu
