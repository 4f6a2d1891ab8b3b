// What the check programs need of a GPU, or of its stand-in on the processor.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

struct MapShape {
  int width;
  uint64_t batch, length, heads, batch_stride, step_stride, head_stride;  // in elements
};
// Extents, pitches in bytes and box of a map: columns, tokens, column blocks, heads, batch rows.
struct MapLayout {
  uint64_t extents[5], pitches[4];
  uint32_t box[5];
  MapLayout(const MapShape& s, int blocks) {
    const bool whole = s.width % 64 == 0;
    const uint64_t extent[5] = {(uint64_t)(whole ? 64 : s.width), s.length,
                                (uint64_t)(whole ? s.width / 64 : 1), s.heads, s.batch};
    const uint64_t pitch[4] = {s.step_stride, 64, s.head_stride, s.batch_stride};
    const uint32_t sizes[5] = {64, 64, (uint32_t)(whole ? blocks : 1), 1, 1};
    for (int i = 0; i < 5; i++) extents[i] = extent[i], box[i] = sizes[i];
    for (int i = 0; i < 4; i++) pitches[i] = pitch[i] * 2;
  }
};

#ifdef XL_HOPPER_HOST

inline void* device_alloc(size_t bytes) {
  return aligned_alloc(1024, (bytes + 1023) / 1024 * 1024);
}
inline void device_free(void* p) { free(p); }
inline void device_fill(void* p, int value, size_t bytes) { memset(p, value, bytes); }
inline void to_device(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }
inline void from_device(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }
inline void finish(const char*) {}

template <typename Args>
void launch(void (*kernel)(const Args&), uint64_t x, uint32_t y, int threads, int shared,
            const Args& a, int cluster = 1) {
  host::grid_size = {(unsigned)x, y, 1};
  host::block_size = {(unsigned)threads, 1, 1};
  if ((size_t)shared > host::shared_bytes) host::fail("too much shared memory");
  host::body = [kernel, a] { kernel(a); };
  for (unsigned row = 0; row < y; row++)
    for (unsigned block = 0; block < x; block += cluster)
      host::run_cluster(block, row, threads, cluster);
}
inline TensorMap encode(const void* base, const MapLayout& l) {
  TensorMap map;
  map.opaque[0] = (uint64_t)base;
  for (int i = 0; i < 5; i++) map.opaque[1 + i] = l.extents[i], map.opaque[10 + i] = l.box[i];
  for (int i = 0; i < 4; i++) {
    map.opaque[6 + i] = l.pitches[i];
    if (l.pitches[i] % 16) host::fail("pitch of a map");
  }
  return map;
}
#define LAUNCH(kernel, x, y, threads, shared, ...) \
  (host::kernel_name = #kernel, launch(kernel, x, y, threads, shared, __VA_ARGS__))

#else
#include <cuda.h>
#include <cuda_runtime.h>
#include <unistd.h>

#define CHECK(call)                                                                \
  do {                                                                             \
    const cudaError_t e_ = (call);                                                 \
    if (e_ != cudaSuccess) {                                                       \
      printf("CUDA %s at %s:%d\n", cudaGetErrorString(e_), __FILE__, __LINE__);    \
      fflush(stdout);                                                              \
      _exit(2);                                                                    \
    }                                                                              \
  } while (0)

inline void* device_alloc(size_t bytes) {
  void* p;
  CHECK(cudaMalloc(&p, bytes));
  return p;
}
inline void device_free(void* p) { CHECK(cudaFree(p)); }
inline void device_fill(void* p, int value, size_t bytes) { CHECK(cudaMemset(p, value, bytes)); }
inline void to_device(void* to, const void* from, size_t bytes) {
  CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}
inline void from_device(void* to, const void* from, size_t bytes) {
  CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}
// A kernel that waits for ever must not take the machine with it.
inline void finish(const char* what) {
  for (int tenths = 0; tenths < 30000; tenths++) {
    const cudaError_t state = cudaStreamQuery(0);
    if (state == cudaSuccess) return;
    if (state != cudaErrorNotReady) {
      printf("CUDA %s in %s\n", cudaGetErrorString(state), what);
      fflush(stdout);
      _exit(2);
    }
    usleep(100);
  }
  printf("HANG %s\n", what);
  fflush(stdout);
  _exit(3);
}

inline int following = 0;  // launches may begin while the one before them ends
template <typename Args>
void launch(void (*kernel)(const Args), uint64_t x, uint32_t y, int threads, int shared,
            const Args& a, int cluster = 1) {
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  cudaLaunchAttribute attribute[2];
  attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[0].val.programmaticStreamSerializationAllowed = following;
  attribute[1].id = cudaLaunchAttributeClusterDimension;
  attribute[1].val.clusterDim = {(unsigned)cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(x, y);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = attribute;
  config.numAttrs = cluster > 1 ? 2 : 1;
  CHECK(cudaLaunchKernelEx(&config, kernel, a));
}
inline TensorMap encode(const void* base, const MapLayout& l) {
  typedef CUresult (*Encode)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                             const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                             const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static Encode function = nullptr;
  if (!function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                           cudaEnableDefault, &result));
    function = (Encode)found;
  }
  CUtensorMap map;
  const cuuint32_t one[5] = {1, 1, 1, 1, 1};
  const CUresult result = function(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, (void*)base, (const cuuint64_t*)l.extents,
      (const cuuint64_t*)l.pitches, l.box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result) printf("tensor map: error %d\n", (int)result);
  TensorMap copy;
  static_assert(sizeof copy == sizeof map, "TensorMap");
  memcpy(&copy, &map, sizeof map);
  return copy;
}
#define LAUNCH(kernel, x, y, threads, shared, ...) \
  launch(kernel, x, y, threads, shared, __VA_ARGS__)
#endif
