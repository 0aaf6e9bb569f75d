// Runs a fuzz target without libFuzzer: every file of its corpus, then seeded mutations of them,
// the same ones in every run. So the ordinary build keeps the targets alive and finds the plain
// crashes; scripts/fuzz.sh explores further.
//   fuzz_x_replay CORPUS_DIRECTORY [EXECUTIONS [SEED]]
// A crashing input is written to ./crash-<execution> before the process dies.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kInputBytesMax = 1u << 20;
constexpr int kSecondsMax = 60;  // stops early on a slow machine
constexpr uint64_t kMemoryBytesMax = 8ull << 30;

// What the signal handler writes; set before each execution.
const uint8_t* current_data = nullptr;
size_t current_size = 0;
char crash_path[64] = "crash-0";

void WriteCrash(int signal_number) {
  const int file = open(crash_path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (file >= 0) {
    const ssize_t written = write(file, current_data, current_size);
    static_cast<void>(written);
    close(file);
  }
  const ssize_t told = write(STDERR_FILENO, crash_path, sizeof(crash_path));
  static_cast<void>(told);
  std::signal(signal_number, SIG_DFL);
  std::raise(signal_number);
}

void Execute(uint64_t execution, const Bytes& input) {
  current_data = input.data();
  current_size = input.size();
  std::snprintf(crash_path, sizeof(crash_path), "crash-%llu",
                static_cast<unsigned long long>(execution));
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

// SplitMix64: small, seeded, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  size_t Below(size_t bound) { return bound == 0 ? 0 : Next() % bound; }

 private:
  uint64_t state_;
};

// Overwrites up to eight bytes with a number that parsers get wrong.
void PutInteresting(Random& random, Bytes* input) {
  static constexpr uint64_t kNumbers[] = {
      0,          1,          0x7F,       0x80,       0xFF,       0x7FFF,      0xFFFF, 0x10000,
      0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1ull << 32, 1ull << 62, ~0ull >> 1u, ~0ull};
  const uint64_t number = kNumbers[random.Below(std::size(kNumbers))];
  const size_t width = size_t{1} << random.Below(4);
  if (input->size() < width) return;
  const size_t at = random.Below(input->size() - width + 1);
  for (size_t i = 0; i < width; ++i) (*input)[at + i] = static_cast<uint8_t>(number >> (8 * i));
}

// Copies a run of `from` over or into `to`.
void Splice(Random& random, const Bytes& from, Bytes* to) {
  if (from.empty()) return;
  const size_t begin = random.Below(from.size());
  const size_t count = 1 + random.Below(std::min<size_t>(from.size() - begin, 256));
  const size_t at = random.Below(to->size() + 1);
  const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
  to->insert(to->begin() + static_cast<std::ptrdiff_t>(at), first,
             first + static_cast<std::ptrdiff_t>(count));
}

void Erase(Random& random, Bytes* input) {
  if (input->empty()) return;
  const size_t begin = random.Below(input->size());
  const size_t count = 1 + random.Below(std::min<size_t>(input->size() - begin, 64));
  input->erase(input->begin() + static_cast<std::ptrdiff_t>(begin),
               input->begin() + static_cast<std::ptrdiff_t>(begin + count));
}

void MutateOnce(Random& random, const std::vector<Bytes>& corpus, Bytes* input) {
  static constexpr char kText[] = "{}[]\",:\\-0123456789.eE/ \n\t\x80\xC3\xFF";
  const size_t at = random.Below(input->size());
  switch (random.Below(8)) {
    case 0:
      if (!input->empty()) (*input)[at] ^= static_cast<uint8_t>(1u << random.Below(8));
      break;
    case 1:
      if (!input->empty()) (*input)[at] = static_cast<uint8_t>(random.Next());
      break;
    case 2:
      PutInteresting(random, input);
      break;
    case 3:
      Erase(random, input);
      break;
    case 4:
      Splice(random, corpus[random.Below(corpus.size())], input);
      break;
    case 5:
      Splice(random, Bytes(*input), input);
      break;
    case 6:
      if (!input->empty()) {
        (*input)[at] = static_cast<uint8_t>(kText[random.Below(sizeof(kText) - 1)]);
      }
      break;
    default:
      input->resize(random.Below(input->size() + 1));
  }
}

std::vector<Bytes> ReadCorpus(const std::string& directory) {
  std::vector<std::filesystem::path> paths;
  if (std::filesystem::is_directory(directory)) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

int Replay(const std::string& directory, uint64_t executions, uint64_t seed) {
  std::vector<Bytes> corpus = ReadCorpus(directory);
  if (corpus.empty()) {
    std::fprintf(stderr, "no corpus in %s\n", directory.c_str());
    return 1;
  }
  const size_t seeds = corpus.size();
  corpus.emplace_back();  // the empty input is always worth a try
  uint64_t execution = 0;
  for (const Bytes& input : corpus) Execute(execution++, input);
  Random random(seed);
  const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(kSecondsMax);
  while (execution < executions && std::chrono::steady_clock::now() < stop) {
    Bytes input = corpus[random.Below(corpus.size())];
    const size_t changes = 1 + random.Below(8);
    for (size_t i = 0; i < changes; ++i) MutateOnce(random, corpus, &input);
    if (input.size() > kInputBytesMax) input.resize(kInputBytesMax);
    Execute(execution++, input);
  }
  std::printf("%zu corpus files, %llu executions\n", seeds,
              static_cast<unsigned long long>(execution));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS_DIRECTORY [EXECUTIONS [SEED]]\n", argv[0]);
    return 2;
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // A length that the input chooses freely ends in bad_alloc here. Sanitizers reserve too much.
  const rlimit limit{kMemoryBytesMax, kMemoryBytesMax};
  setrlimit(RLIMIT_AS, &limit);
#endif
  for (int signal_number : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL}) {
    std::signal(signal_number, WriteCrash);
  }
  const uint64_t executions = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 20'000;
  const uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  return Replay(argv[1], executions, seed);
}
