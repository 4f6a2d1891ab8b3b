// The emulator's own test: a program that contains the emulator and a few kernels, and talks to it
// through the driver API. Prints what failed; exit status 1 then.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "selftest_kernels.hpp"

using Pointer = unsigned long long;

struct Attribute {
  int id;
  unsigned padding;
  unsigned value[16];
};

struct Config {
  uint3 grid, block;
  unsigned shared_bytes;
  void* stream;
  const Attribute* attributes;
  unsigned attribute_count;
};

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(void*);
int cuCtxSynchronize();
int cuDeviceGetAttribute(int*, int, int);
int cuDeviceTotalMem_v2(size_t*, int);
int cuStreamCreateWithPriority(void**, unsigned, int);
int cuStreamDestroy_v2(void*);
int cuStreamSynchronize(void*);
int cuStreamQuery(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventQuery(void*);
int cuEventElapsedTime_v2(float*, void*, void*);
int cuMemAlloc_v2(Pointer*, size_t);
int cuMemFree_v2(Pointer);
int cuMemGetInfo_v2(size_t*, size_t*);
int cuMemcpyHtoDAsync_v2(Pointer, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, Pointer, size_t, void*);
int cuMemsetD8Async(Pointer, unsigned char, size_t, void*);
int cuLibraryLoadData(void**, const void*, void*, void*, unsigned, void*, void*, unsigned);
int cuLibraryGetKernel(void**, void*, const char*);
int cuKernelSetAttribute(int, int, void*, int);
int cuLaunchKernelEx(const Config*, void*, void**, void**);
int cuStreamBeginCapture_v2(void*, int);
int cuStreamEndCapture(void*, void**);
int cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
int cuGraphLaunch(void*, void*);
int cuGraphExecDestroy(void*);
int cuGraphDestroy(void*);
int cuGetErrorName(int, const char**);
int xl_emulator_launches();
const char* xl_emulator_error();
void xl_emulator_reset();
}

static int failures = 0;
static void* stream;
static void* library;

static void expect(bool fine, const char* what, int line) {
  if (fine) return;
  failures++;
  printf("line %d: %s; the emulator says: %s\n", line, what, xl_emulator_error());
}
#define EXPECT(condition) expect((condition), #condition, __LINE__)
#define GIVES(code, call) expect((call) == (code), #call " gives " #code, __LINE__)

template <typename T> static T* allocate(size_t count) {
  Pointer made = 0;
  GIVES(0, cuMemAlloc_v2(&made, count * sizeof(T)));
  return reinterpret_cast<T*>(made);
}

static Pointer address(const void* pointer) { return reinterpret_cast<Pointer>(pointer); }

static int launch(const char* name, uint3 grid, uint3 block, TestArgs arguments,
                  unsigned shared_bytes = 0, const Attribute* attribute = nullptr) {
  void* kernel = nullptr;
  GIVES(0, cuLibraryGetKernel(&kernel, library, name));
  const Config config = {grid,   block,     shared_bytes,
                         stream, attribute, attribute == nullptr ? 0u : 1u};
  void* parameters[] = {&arguments};
  return cuLaunchKernelEx(&config, kernel, parameters, nullptr);
}

static void test_sums() {
  const size_t count = 100003;
  float* in = allocate<float>(count);
  float* out = allocate<float>(64);
  uint32_t* counter = allocate<uint32_t>(1);
  double exact = 0;
  for (size_t i = 0; i < count; i++) exact += in[i] = static_cast<float>(i % 17) - 8;
  GIVES(0, cuMemsetD8Async(address(counter), 0, 4, stream));
  EXPECT(isnan(out[0]));
  GIVES(0, launch("test_sum", {37, 1, 1}, {256, 1, 1}, {in, out, counter, count, 0}));
  EXPECT(static_cast<double>(out[0]) == exact);
  GIVES(0, cuMemFree_v2(address(in)));
  GIVES(0, cuMemFree_v2(address(out)));
  GIVES(0, cuMemFree_v2(address(counter)));
}

static void test_warps() {
  float* out = allocate<float>(64 * 8);
  GIVES(0, launch("test_warp", {1, 1, 1}, {64, 1, 1}, {nullptr, out, nullptr, 0, 0}));
  for (int thread = 0; thread < 64; thread++) {
    const int lane = thread % 32;
    const float* got = out + thread * 8;
    const int segment = lane & ~7;
    EXPECT(got[0] == static_cast<float>(lane < 3 ? lane : lane - 3));
    EXPECT(got[1] == static_cast<float>(lane + 3 > segment + 7 ? lane : lane + 3));
    EXPECT(got[2] == static_cast<float>((segment + 1) * 1.5));
    EXPECT(got[3] == static_cast<float>(lane ^ 5));
    EXPECT(__float_as_uint(got[4]) == 0x49249249u);
    EXPECT(got[5] == 1 && got[6] == 0);
    EXPECT(lane == 0 ? got[7] == 1 : lane % 2 == 1 ? got[7] == 0 : isnan(got[7]) != 0);
  }
  GIVES(0, cuMemFree_v2(address(out)));
}

static void test_indices() {
  const unsigned threads = 8 * 4 * 4, blocks = 3 * 2 * 2;
  float* out = allocate<float>(threads * blocks);
  GIVES(0, launch("test_index", {3, 2, 2}, {8, 4, 4}, {nullptr, out, nullptr, 0, 0}, threads * 4));
  bool right = true;
  for (unsigned block = 0; block < blocks; block++)
    for (unsigned i = 0; i < threads; i++)
      right &= out[block * threads + i] ==
               static_cast<float>(block * threads + threads - 1 - i + 2);
  EXPECT(right);
  GIVES(0, launch("test_uninitialised", {6, 1, 1}, {32, 1, 1}, {nullptr, out, nullptr, 0, 0}, 128));
  for (int i = 0; i < 6; i++) EXPECT(isnan(out[2 * i + 1]));
  EXPECT(isnan(out[0]) && isnan(out[10]));  // static: the first and the last block
  GIVES(0, cuMemFree_v2(address(out)));
}

static void mistake(uint32_t mode, int code, const char* text, int line) {
  float* in = allocate<float>(64);
  float* out = allocate<float>(100);
  if (mode == test::freed) GIVES(0, cuMemFree_v2(address(in)));
  for (int i = 0; i < 100; i++) out[i] = 1;
  const int got = launch("test_mistake", {2, 1, 1}, {64, 1, 1}, {in, out, nullptr, 100, mode}, 64);
  expect(got == code && strstr(xl_emulator_error(), text) != nullptr, text, line);
  expect(strstr(xl_emulator_error(), "test_mistake") != nullptr, "names the kernel", line);
  Pointer unused;
  expect(cuMemAlloc_v2(&unused, 4) == code, "is sticky", line);
  xl_emulator_reset();
  if (mode != test::freed) GIVES(0, cuMemFree_v2(address(in)));
  GIVES(0, cuMemFree_v2(address(out)));
}
#define MISTAKE(mode, code, text) mistake(test::mode, code, text, __LINE__)

static void test_mistakes() {
  MISTAKE(lines, 719, "diverge at a barrier");
  MISTAKE(missing, 719, "diverge at a barrier");
  MISTAKE(trips, 719, "diverge at a barrier");
  MISTAKE(partial, 719, "only full warps");
  MISTAKE(past_memory, 700, "0 bytes past the end of an allocation of 400 bytes");
  MISTAKE(past_shared, 700, "past the end of its 64 bytes of shared memory");
  MISTAKE(null, 700, "used the address 0");
  MISTAKE(misaligned, 719, "a misaligned");
  MISTAKE(index, 719, "an index outside of an array");
  MISTAKE(stack, 719, "bytes of stack");
  MISTAKE(division, 719, "divided by zero");
  MISTAKE(freed, 700, "used the address");
}

static void test_checks() {
  float* out = allocate<float>(64);
  const TestArgs arguments = {nullptr, out, nullptr, 0, 0};
  const Attribute cluster = {4, 0, {2, 1, 1}};
  GIVES(1, launch("test_warp", {0, 1, 1}, {32, 1, 1}, arguments));
  GIVES(1, launch("test_warp", {1, 70000, 1}, {32, 1, 1}, arguments));
  GIVES(1, launch("test_warp", {1, 1, 1}, {48, 1, 1}, arguments));
  GIVES(1, launch("test_index", {1, 1, 1}, {1024, 2, 1}, arguments));
  GIVES(701, launch("test_warp", {1, 1, 1}, {96, 1, 1}, arguments));
  GIVES(801, launch("test_warp", {1, 1, 1}, {32, 1, 1}, arguments, 0, &cluster));
  GIVES(1, launch("test_index", {1, 1, 1}, {32, 1, 1}, arguments, 49153));
  void* kernel = nullptr;
  GIVES(0, cuLibraryGetKernel(&kernel, library, "test_index"));
  GIVES(1, cuKernelSetAttribute(8, (227 << 10) + 1, kernel, 0));
  GIVES(0, cuKernelSetAttribute(8, 227 << 10, kernel, 0));
  GIVES(0, launch("test_index", {1, 1, 1}, {32, 1, 1}, arguments, 227 << 10));
  GIVES(500, cuLibraryGetKernel(&kernel, library, "no_such_kernel"));
  const char* name = nullptr;
  GIVES(0, cuGetErrorName(719, &name));
  EXPECT(strcmp(name, "CUDA_ERROR_LAUNCH_FAILED") == 0);
  GIVES(1, cuMemFree_v2(address(out) + 4));
  GIVES(1, cuMemsetD8Async(address(out), 0, 257, stream));
  GIVES(400, cuMemsetD8Async(address(out), 0, 4, nullptr));
  out[64] = 1;
  GIVES(700, cuCtxSynchronize());
  xl_emulator_reset();
  GIVES(0, cuMemFree_v2(address(out)));
}

static void test_environment() {
  size_t free_bytes = 0, total_bytes = 0;
  Pointer made = 0;
  GIVES(0, cuMemGetInfo_v2(&free_bytes, &total_bytes));
  EXPECT(free_bytes == total_bytes && total_bytes == size_t(2) << 30);
  setenv("XL_EMULATOR_MEMORY", "1000000", 1);
  GIVES(2, cuMemAlloc_v2(&made, 1000001));
  GIVES(0, cuMemAlloc_v2(&made, 900000));
  Pointer more = 0;
  GIVES(2, cuMemAlloc_v2(&more, 200000));
  GIVES(0, cuMemFree_v2(made));
  unsetenv("XL_EMULATOR_MEMORY");
  int capability = 0;
  GIVES(0, cuDeviceGetAttribute(&capability, 75, 0));
  EXPECT(capability == 8);
  setenv("XL_EMULATOR_CAPABILITY", "90", 1);
  GIVES(0, cuDeviceGetAttribute(&capability, 75, 0));
  EXPECT(capability == 9);
  unsetenv("XL_EMULATOR_CAPABILITY");
  setenv("XL_EMULATOR_BUSY", "2", 1);
  void* event = nullptr;
  GIVES(0, cuEventCreate(&event, 0));
  GIVES(0, cuEventRecord(event, stream));
  GIVES(600, cuEventQuery(event));
  GIVES(600, cuEventQuery(event));
  GIVES(0, cuEventQuery(event));
  unsetenv("XL_EMULATOR_BUSY");
}

static void test_graphs() {
  float* in = allocate<float>(1000);
  float* out = allocate<float>(64);
  uint32_t* counter = allocate<uint32_t>(1);
  float result = -1;
  void *graph = nullptr, *executable = nullptr, *side = nullptr, *event = nullptr;
  GIVES(0, cuStreamCreateWithPriority(&side, 1, 0));
  GIVES(0, cuEventCreate(&event, 2));
  GIVES(0, cuStreamBeginCapture_v2(stream, 1));
  Pointer refused = 0;
  GIVES(900, cuMemAlloc_v2(&refused, 4));
  GIVES(0, cuEventRecord(event, stream));
  GIVES(0, cuStreamWaitEvent(side, event, 0));
  GIVES(0, cuMemsetD8Async(address(counter), 0, 4, side));
  GIVES(0, launch("test_sum", {4, 1, 1}, {64, 1, 1}, {in, out, counter, 1000, 0}));
  GIVES(0, cuMemcpyDtoHAsync_v2(&result, address(out), 4, stream));
  GIVES(0, cuStreamEndCapture(stream, &graph));
  GIVES(0, cuStreamQuery(side));
  EXPECT(result == -1);
  GIVES(0, cuGraphInstantiateWithFlags(&executable, graph, 0));
  GIVES(0, cuGraphDestroy(graph));
  for (int round = 1; round <= 2; round++) {
    for (int i = 0; i < 1000; i++) in[i] = static_cast<float>(round);
    GIVES(0, cuGraphLaunch(executable, stream));
    EXPECT(result == static_cast<float>(1000 * round));
  }
  GIVES(0, cuGraphExecDestroy(executable));
  GIVES(400, cuGraphLaunch(executable, stream));
  GIVES(0, cuStreamBeginCapture_v2(stream, 2));
  GIVES(900, cuStreamSynchronize(stream));
  GIVES(901, cuStreamEndCapture(stream, &graph));
  GIVES(0, cuMemFree_v2(address(in)));
  GIVES(0, cuMemFree_v2(address(out)));
  GIVES(0, cuMemFree_v2(address(counter)));
}

static void measure() {
  float* out = allocate<float>(1 << 20);
  timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (int i = 0; i < 100; i++)
    launch("test_index", {64, 1, 1}, {256, 1, 1}, {nullptr, out, nullptr, 0, 0}, 1024);
  clock_gettime(CLOCK_MONOTONIC, &to);
  const double seconds = static_cast<double>(to.tv_sec - from.tv_sec) +
                         static_cast<double>(to.tv_nsec - from.tv_nsec) * 1e-9;
  printf("%.0f ns per barrier of a thread\n", seconds * 1e9 / (100 * 64 * 256 * 6.0));
  GIVES(0, cuMemFree_v2(address(out)));
}

int main() {
  void* context = nullptr;
  GIVES(3, cuCtxSetCurrent(nullptr));
  GIVES(0, cuInit(0));
  GIVES(0, cuDevicePrimaryCtxRetain(&context, 0));
  GIVES(201, cuStreamCreateWithPriority(&stream, 1, 0));
  GIVES(0, cuCtxSetCurrent(context));
  GIVES(0, cuStreamCreateWithPriority(&stream, 1, 0));
  GIVES(0, cuLibraryLoadData(&library, "image", nullptr, nullptr, 0, nullptr, nullptr, 0));
  test_sums();
  test_warps();
  test_indices();
  test_mistakes();
  test_checks();
  test_environment();
  test_graphs();
  measure();
  GIVES(0, cuDevicePrimaryCtxRelease_v2(0));
  GIVES(201, cuCtxSynchronize());
  printf("emulator: %d launches, %d failures\n", xl_emulator_launches(), failures);
  return failures == 0 ? 0 : 1;
}
