// The fake of a GPU finds out whoever does what a real one would not bear.
#include "kernels/fake_gpu/fake_device.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <vector>

#include "kernels/cuda_library.h"

namespace octet::fake_gpu {
namespace {

constexpr size_t kBytes = 1000;

const cuda::CudaApi& Api() { return **OpenCudaApi(); }

void* OnDevice(int device = 0) {
  void* memory = nullptr;
  EXPECT_EQ(Api().set_device(device), 0);
  EXPECT_EQ(Api().allocate(kBytes, &memory), 0);
  return memory;
}

void* PageLocked() {
  void* memory = nullptr;
  EXPECT_EQ(Api().allocate_host(kBytes, &memory), 0);
  return memory;
}

uint8_t* At(void* memory, size_t offset) { return static_cast<uint8_t*>(memory) + offset; }

// What the first device says after `work`. An error stays for the process: call it in one of its
// own.
int ErrorAfter(const std::function<void(cuda::Stream)>& work) {
  cuda::Stream stream = nullptr;
  (void)Api().set_device(0);
  (void)Api().create_stream(&stream);
  work(stream);
  return Api().synchronize(stream);
}

class FakeDeviceTest : public ::testing::Test {
 protected:
  FakeDeviceTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

void ExpectIllegal(const std::function<void(cuda::Stream)>& work) {
  EXPECT_EXIT(std::_Exit(ErrorAfter(work) == kIllegalAddress ? 7 : 0), ::testing::ExitedWithCode(7),
              "");
}

TEST_F(FakeDeviceTest, CopiesBetweenHostAndDevice) {
  std::vector<uint8_t> in(kBytes, 3), out(kBytes);
  void* const staged = PageLocked();
  EXPECT_EQ(ErrorAfter([&](cuda::Stream s) {
              void* const memory = OnDevice();
              (void)Api().copy(s, memory, in.data(), kBytes);
              (void)Api().copy(s, staged, memory, kBytes);
              (void)Api().copy(s, At(memory, 1), At(staged, 1), kBytes - 1);
              (void)Api().copy(s, out.data(), memory, kBytes);
            }),
            0);
  EXPECT_EQ(out, in);
}

TEST_F(FakeDeviceTest, ACopyPastAnAllocationEndsTheDevice) {
  ExpectIllegal([](cuda::Stream s) {
    std::vector<uint8_t> out(kBytes + 1);
    (void)Api().copy(s, out.data(), OnDevice(), kBytes + 1);
  });
  ExpectIllegal(
      [](cuda::Stream s) { (void)Api().copy(s, At(PageLocked(), 1), OnDevice(), kBytes); });
}

TEST_F(FakeDeviceTest, ACopyOverTwoAllocationsEndsTheDevice) {
  ExpectIllegal([](cuda::Stream s) {
    void* const first = OnDevice();
    (void)OnDevice();  // right behind, on the next page
    std::vector<uint8_t> out(8192);
    (void)Api().copy(s, out.data(), first, out.size());
  });
}

TEST_F(FakeDeviceTest, WhatWasReleasedIsNobodys) {
  ExpectIllegal([](cuda::Stream s) {
    void* const memory = OnDevice();
    Api().release(memory);
    (void)OnDevice();
    std::vector<uint8_t> out(kBytes);
    (void)Api().copy(s, out.data(), memory, kBytes);
  });
  ExpectIllegal([](cuda::Stream s) {
    void* const memory = OnDevice();
    Api().release(memory);
    (void)Api().fill(s, memory, 1, kBytes);
  });
}

TEST_F(FakeDeviceTest, AKernelReachesForItsOwnDeviceOnly) {
  ExpectIllegal([](cuda::Stream s) { (void)Api().fill(s, OnDevice(1), 1, kBytes); });
  ExpectIllegal([](cuda::Stream s) { (void)Api().fill(s, PageLocked(), 1, kBytes); });
  ExpectIllegal([](cuda::Stream s) { (void)Api().fill(s, OnDevice(), 1, kBytes + 1); });
}

TEST_F(FakeDeviceTest, AnErrorStays) {
  EXPECT_EXIT(
      {
        (void)ErrorAfter([](cuda::Stream s) { (void)Api().fill(s, PageLocked(), 1, 1); });
        void* memory = nullptr;
        const bool stays = Api().set_device(0) == kIllegalAddress &&
                           Api().allocate(1, &memory) == kIllegalAddress && memory == nullptr;
        std::_Exit(stays ? 7 : 0);
      },
      ::testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace octet::fake_gpu
