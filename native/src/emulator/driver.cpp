// The entry points for the driver itself, the device, the context, code and launches. Tests vary
// the device through the environment:
//
//   XL_EMULATOR_DEVICES=0            cuInit finds no device
//   XL_EMULATOR_DRIVER_VERSION=11040 an old driver
//   XL_EMULATOR_CAPABILITY=90        compute capability
//   XL_EMULATOR_MEMORY=bytes         total memory
//   XL_EMULATOR_BUSY=n               "not ready" answers after each submission (stream.cpp)
//   XL_EMULATOR_FAULT=kernel         launches of it end with an illegal address (launch.cpp)

#include <stdio.h>
#include <string.h>

#include "state.hpp"

namespace xl {
namespace {

constexpr int max_shared_attribute = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

struct DeviceAttribute {
  int id, value;
};

/// Those of the capability are computed. What is not listed is 0: a feature that is not there.
constexpr DeviceAttribute device_attributes[] = {
    {1, 1024},                  // threads per block
    {2, 1024},                  // block x, y, z
    {3, 1024},
    {4, 64},
    {5, 2147483647},            // grid x, y, z
    {6, 65535},
    {7, 65535},
    {8, default_shared_bytes},  // shared memory per block
    {10, 32},                   // warp size
    {12, 65536},                // registers per block
    {13, 1000000},              // clock, kHz
    {16, 4},                    // multiprocessors
    {36, 1000000},              // memory clock, kHz
    {37, 64},                   // memory bus, bits
    {38, 4 << 20},              // L2
    {39, 2048},                 // threads per multiprocessor
    {41, 1},                    // unified addressing
    {81, 228 << 10},            // shared memory per multiprocessor
    {97, largest_shared_bytes},
    {115, 1},                   // cuMemAllocAsync
};
constexpr int major_attribute = 75, minor_attribute = 76, attribute_limit = 200;

// Their addresses are the handles of the one context and the one library.
int context_object, library;

struct ErrorText {
  Result code;
  const char* name;
  const char* text;
};

constexpr ErrorText error_texts[] = {
    {success, "CUDA_SUCCESS", "no error"},
    {invalid_value, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {out_of_memory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {not_initialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {no_device, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {invalid_device, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {invalid_image, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {invalid_context, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {invalid_handle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {not_found, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {not_ready, "CUDA_ERROR_NOT_READY", "device not ready"},
    {illegal_address, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {launch_out_of_resources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {misaligned_address, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {launch_failed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {not_supported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {capture_unsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {capture_invalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {capture_unmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "the capture was not initiated in this stream"},
    {captured_event, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
};

const ErrorText* find_text(int code) {
  for (const ErrorText& row : error_texts)
    if (row.code == code) return &row;
  return nullptr;
}

Result check_device(int device) {
  return device == 0 ? success : report(invalid_device, "device %d; there is one", device);
}

Result check_kernel(const void* kernel) {
  return is_kernel(kernel) ? success : report(invalid_handle, "not a kernel of this library");
}

/// CUlaunchAttribute.
struct Attribute {
  int id;
  unsigned padding;
  unsigned value[16];
};

/// CUlaunchConfig.
struct Config {
  uint3 grid, block;
  unsigned shared_bytes;
  void* stream;
  const Attribute* attributes;
  unsigned attribute_count;
};
static_assert(sizeof(Attribute) == 72 && sizeof(Config) == 56, "layouts of cuda.h");

Result check_attributes(const Config& config) {
  constexpr int cooperative = 2, cluster = 4;
  for (unsigned i = 0; i < config.attribute_count; i++) {
    const Attribute& at = config.attributes[i];
    if (at.id == cooperative && at.value[0] != 0)
      return report(not_supported, "cooperative launches are not emulated");
    if (at.id == cluster && (at.value[0] > 1 || at.value[1] > 1 || at.value[2] > 1))
      return report(not_supported, "clusters are not emulated");
  }
  return success;
}

Result check_shape(const Config& config, const Kernel& kernel) {
  const uint3 grid = config.grid, block = config.block;
  const unsigned long long threads = 1ull * block.x * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 ||
      grid.z > 65535)
    return report(invalid_value, "%s: a grid of %u,%u,%u blocks", kernel.name, grid.x, grid.y,
                  grid.z);
  if (threads == 0 || threads > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64)
    return report(invalid_value, "%s: a block of %u,%u,%u threads", kernel.name, block.x, block.y,
                  block.z);
  if (threads % 32 != 0)
    return report(invalid_value, "%s: a block of %llu threads, not a multiple of 32", kernel.name,
                  threads);
  if (threads > kernel.max_threads)
    return report(launch_out_of_resources, "%s: a block of %llu threads, declared for %u",
                  kernel.name, threads, kernel.max_threads);
  if (config.shared_bytes > static_cast<unsigned>(kernel.max_shared_bytes))
    return report(invalid_value, "%s: %u bytes of shared memory, at most %d are allowed",
                  kernel.name, config.shared_bytes, kernel.max_shared_bytes);
  return success;
}

}  // namespace

XL_EXPORT Result cuInit(unsigned flags) {
  Call call(Needs::nothing);
  if (flags != 0) return report(invalid_value, "cuInit: flags %u", flags);
  if (setting("XL_EMULATOR_DEVICES", 1) == 0) return report(no_device, "no device");
  state.initialized = true;
  return success;
}

XL_EXPORT Result cuDriverGetVersion(int* to) {
  *to = static_cast<int>(setting("XL_EMULATOR_DRIVER_VERSION", 13000));
  return success;
}

XL_EXPORT Result cuDeviceGetCount(int* to) {
  Call call(Needs::driver);
  *to = 1;
  return call.result;
}

XL_EXPORT Result cuDeviceGet(int* to, int ordinal) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  *to = ordinal;
  return check_device(ordinal);
}

XL_EXPORT Result cuDeviceGetAttribute(int* to, int attribute, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = check_device(device)) return failure;
  if (attribute < 1 || attribute >= attribute_limit)
    return report(invalid_value, "device attribute %d", attribute);
  const int capability = static_cast<int>(setting("XL_EMULATOR_CAPABILITY", 80));
  *to = attribute == major_attribute   ? capability / 10
        : attribute == minor_attribute ? capability % 10
                                       : 0;
  for (const DeviceAttribute& row : device_attributes)
    if (row.id == attribute) *to = row.value;
  return success;
}

XL_EXPORT Result cuDeviceGetName(char* to, int bytes, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = check_device(device)) return failure;
  if (bytes > 0) snprintf(to, static_cast<size_t>(bytes), "xl emulator");
  return success;
}

XL_EXPORT Result cuDeviceTotalMem_v2(size_t* to, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  *to = total_memory();
  return check_device(device);
}

XL_EXPORT Result cuDeviceGetUuid_v2(unsigned char* to, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  memcpy(to, "xl emulator 0000", 16);
  return check_device(device);
}

XL_EXPORT Result cuDevicePrimaryCtxRetain(void** to, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = check_device(device)) return failure;
  state.retained++;
  *to = &context_object;
  return success;
}

XL_EXPORT Result cuDevicePrimaryCtxRelease_v2(int device) {
  Call call(Needs::nothing);
  if (Result failure = check_device(device)) return failure;
  if (state.retained == 0) return report(invalid_context, "the context is not retained");
  if (--state.retained > 0) return success;
  state.generation++;
  const Result result = check_red_zones("cuDevicePrimaryCtxRelease");
  release_everything();
  return result;
}

XL_EXPORT Result cuCtxSetCurrent(void* context) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (context != nullptr && (context != &context_object || state.retained == 0))
    return report(invalid_context, "cuCtxSetCurrent: not a context");
  use_context(context != nullptr);
  return success;
}

XL_EXPORT Result cuCtxSynchronize() {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_in_capture("cuCtxSynchronize")) return failure;
  return check_red_zones("cuCtxSynchronize");
}

XL_EXPORT Result cuLibraryLoadData(void** to, const void* image, void*, void*, unsigned, void*,
                                   void*, unsigned) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = refuse_in_capture("cuLibraryLoadData")) return failure;
  if (image == nullptr) return report(invalid_image, "cuLibraryLoadData: no image");
  *to = &library;
  return success;
}

XL_EXPORT Result cuLibraryUnload(void* handle) {
  Call call(Needs::nothing);
  return handle == &library ? success : report(invalid_handle, "cuLibraryUnload: no library");
}

XL_EXPORT Result cuLibraryGetKernel(void** to, void* handle, const char* name) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (handle != &library) return report(invalid_handle, "cuLibraryGetKernel: no library");
  *to = find_kernel(name);
  return *to != nullptr ? success : report(not_found, "no kernel named %s", name);
}

XL_EXPORT Result cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = check_kernel(kernel)) return failure;
  if (Result failure = check_device(device)) return failure;
  if (attribute != max_shared_attribute) return success;
  if (value < 0 || value > largest_shared_bytes)
    return report(invalid_value, "%d bytes of shared memory, at most %d exist", value,
                  largest_shared_bytes);
  static_cast<Kernel*>(kernel)->max_shared_bytes = value;
  return success;
}

XL_EXPORT Result cuKernelGetAttribute(int* to, int attribute, void* kernel, int device) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = check_kernel(kernel)) return failure;
  const Kernel& found = *static_cast<const Kernel*>(kernel);
  *to = attribute == 0                      ? static_cast<int>(found.max_threads)
        : attribute == 4                    ? 32  // registers
        : attribute == max_shared_attribute ? found.max_shared_bytes
                                            : 0;
  return check_device(device);
}

XL_EXPORT Result cuLaunchKernelEx(const Config* config, void* handle, void** parameters,
                                  void** extra) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = check_kernel(handle)) return failure;
  const Kernel& kernel = *static_cast<const Kernel*>(handle);
  if (extra != nullptr) return report(not_supported, "%s: launch with `extra`", kernel.name);
  if (parameters == nullptr || parameters[0] == nullptr)
    return report(invalid_value, "%s: no arguments", kernel.name);
  if (Result failure = check_attributes(*config)) return failure;
  if (Result failure = check_shape(*config, kernel)) return failure;
  Work work;
  if (kernel.argument_bytes > sizeof work.launch.arguments)
    return report(invalid_value, "%s: %zu bytes of arguments", kernel.name, kernel.argument_bytes);
  work.kind = Work::kernel;
  work.launch.kernel = &kernel;
  work.launch.grid = config->grid;
  work.launch.block = config->block;
  work.launch.shared_bytes = config->shared_bytes;
  memcpy(work.launch.arguments, parameters[0], kernel.argument_bytes);
  return submit(config->stream, work);
}

XL_EXPORT Result cuTensorMapEncodeTiled(void*, int, unsigned, void*, const unsigned long long*,
                                        const unsigned long long*, const unsigned*,
                                        const unsigned*, int, int, int, int) {
  return report(not_supported, "tensor maps are not emulated");
}

XL_EXPORT Result cuGetErrorName(int code, const char** to) {
  const ErrorText* found = find_text(code);
  *to = found != nullptr ? found->name : nullptr;
  return found != nullptr ? success : invalid_value;
}

/// The emulator's own words for the failure it remembers, so that they reach the user's error text.
XL_EXPORT Result cuGetErrorString(int code, const char** to) {
  const ErrorText* found = find_text(code);
  *to = found != nullptr ? found->text : nullptr;
  if (found != nullptr && code == error_code() && *error() != 0) *to = error();
  return found != nullptr ? success : invalid_value;
}

/// Kernels run so far, replays included.
XL_EXPORT int xl_emulator_launches() { return launch_count(); }

/// Text of the last failure, or of the one that poisoned the context; empty when there is none.
XL_EXPORT const char* xl_emulator_error() { return error(); }

/// A test that provoked a failure on purpose goes on here.
XL_EXPORT void xl_emulator_reset() { forget_errors(); }

}  // namespace xl
