#include "kernels/fake_gpu/fake_device.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
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
constexpr size_t kAlignment = 256;  // of page-locked memory
constexpr size_t kPageBytes = 4096;
constexpr uint64_t kMemoryBytes = uint64_t{4} << 30;
// Addresses of a device. None is given out twice, so that whoever reaches for memory that was
// released is found out, and there are more of them than memory.
constexpr size_t kAddressBytes = size_t{64} << 30;
// What memory holds before anything is written, so that reading it shows.
constexpr uint8_t kUnwritten = 0xa5;

thread_local int current_device = 0;

size_t RoundUp(size_t bytes, size_t to) { return bytes == 0 ? to : (bytes + to - 1) / to * to; }

enum class Kind {
  kHost,        // pageable: a copy from or to it does not go on by itself
  kPageLocked,  // of the host
  kDevice,
  kNowhere,  // partly or wholly outside of what there is
};

struct Place {
  Kind kind = Kind::kHost;
  int device = 0;  // of kDevice
};

// By its first address, how many bytes.
using Allocations = std::map<uintptr_t, size_t>;

bool Holds(const Allocations& all, uintptr_t begin, size_t bytes) {
  const auto after = all.upper_bound(begin);
  if (after == all.begin()) return false;
  const auto it = std::prev(after);
  return begin + bytes <= it->first + it->second;
}

bool Touches(const Allocations& all, uintptr_t begin, size_t bytes) {
  const auto after = all.lower_bound(begin + bytes);
  if (after == all.begin()) return false;
  const auto it = std::prev(after);
  return begin < it->first + it->second;
}

struct DeviceMemory {
  uint8_t* addresses = nullptr;  // kAddressBytes of them; null before the first allocation
  size_t given_out = 0;          // of them, ever
  uint64_t used = 0;
  Allocations all;
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
  DeviceMemory memory[kDevices] OCTET_GUARDED_BY(mu);
  Allocations page_locked OCTET_GUARDED_BY(mu);
  int error[kDevices] OCTET_GUARDED_BY(mu) = {};
  std::map<Stream*, std::shared_ptr<Stream>> streams OCTET_GUARDED_BY(mu);
  std::shared_ptr<Stream> own[kDevices] OCTET_GUARDED_BY(mu);

  // Of [data, data + bytes).
  Place PlaceOf(const void* data, size_t bytes) OCTET_REQUIRES(mu) {
    const auto at = reinterpret_cast<uintptr_t>(data);
    for (int d = 0; d < kDevices; ++d) {
      const auto first = reinterpret_cast<uintptr_t>(memory[d].addresses);
      if (first == 0 || at + bytes <= first || at >= first + kAddressBytes) continue;
      return {Holds(memory[d].all, at, bytes) ? Kind::kDevice : Kind::kNowhere, d};
    }
    if (Holds(page_locked, at, bytes)) return {Kind::kPageLocked, 0};
    return {Touches(page_locked, at, bytes) ? Kind::kNowhere : Kind::kHost, 0};
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

// What an allocation or a release may do on a real device, and does here.
void WaitForAllStreams() {
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
}

int Allocate(size_t bytes, void** out) {
  *out = nullptr;
  WaitForAllStreams();
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  if (m.error[current_device] != 0) return m.error[current_device];
  DeviceMemory& memory = m.memory[current_device];
  const size_t size = RoundUp(bytes, kPageBytes);
  if (memory.used + size > kMemoryBytes || memory.given_out + size > kAddressBytes) {
    return kOutOfMemory;
  }
  if (memory.addresses == nullptr) {
    void* const reserved =
        mmap(nullptr, kAddressBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return kOutOfMemory;
    memory.addresses = static_cast<uint8_t*>(reserved);
  }
  uint8_t* const begin = memory.addresses + memory.given_out;
  if (mprotect(begin, size, PROT_READ | PROT_WRITE) != 0) return kOutOfMemory;
  std::memset(begin, kUnwritten, size);
  memory.given_out += size;
  memory.used += size;
  memory.all[reinterpret_cast<uintptr_t>(begin)] = bytes;
  *out = begin;
  return 0;
}

void Release(void* data) {
  if (data == nullptr) return;
  WaitForAllStreams();
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  for (DeviceMemory& memory : m.memory) {
    const auto it = memory.all.find(reinterpret_cast<uintptr_t>(data));
    if (it == memory.all.end()) continue;
    const size_t size = RoundUp(it->second, kPageBytes);
    memory.used -= size;
    memory.all.erase(it);
    (void)mmap(data, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
               0);
  }
}

int AllocateHost(size_t bytes, void** out) {
  WaitForAllStreams();
  const size_t size = RoundUp(bytes, kAlignment);
  *out = std::aligned_alloc(kAlignment, size);
  if (*out == nullptr) return kOutOfMemory;
  std::memset(*out, kUnwritten, size);
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  m.page_locked[reinterpret_cast<uintptr_t>(*out)] = bytes;
  return 0;
}

void ReleaseHost(void* data) {
  if (data == nullptr) return;
  WaitForAllStreams();
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  if (m.page_locked.erase(reinterpret_cast<uintptr_t>(data)) > 0) std::free(data);
}

bool IsPageable(const void* data, size_t bytes) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  return m.PlaceOf(data, bytes).kind == Kind::kHost;
}

// Of the stream's device, or of the host.
bool MayCopy(int device, const void* data, size_t bytes) {
  Machine& m = TheMachine();
  MutexLock lock(m.mu);
  const Place place = m.PlaceOf(data, bytes);
  return place.kind != Kind::kNowhere && (place.kind != Kind::kDevice || place.device == device);
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
    const bool reaches =
        MayCopy(device, to, bytes) && (staged != nullptr || MayCopy(device, from, bytes));
    if (!reaches) return Fail(device);
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
  const Place place = m.PlaceOf(data, bytes);
  return place.kind == Kind::kDevice && place.device == device_;
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
    *bytes = kMemoryBytes - m.memory[current_device].used;
    return m.error[current_device];
  };
  api->allocate = Allocate;
  api->release = Release;
  api->allocate_host = AllocateHost;
  api->release_host = ReleaseHost;
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
