// What the parts of the emulated driver share: results, the record of errors, the lock every call
// takes, kernels, launches, and the work a stream performs or records.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "device_types.hpp"
#include "kernel.hpp"

#define XL_EXPORT extern "C" __attribute__((visibility("default")))

namespace xl {

struct Worker;

/// Numbers of CUresult.
enum Result : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  invalid_handle = 400,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_out_of_resources = 701,
  misaligned_address = 716,
  launch_failed = 719,
  not_supported = 801,
  capture_unsupported = 900,
  capture_invalidated = 901,
  capture_unmatched = 903,
  captured_event = 907,
};

using Pointer = unsigned long long;  // CUdeviceptr

/// Remembers a text for xl_emulator_error and returns the code.
[[gnu::format(printf, 2, 3)]] Result report(Result code, const char* format, ...);

/// The same for errors after which a context is lost: every later call fails with this code. The
/// first one stays. From any thread, also from a signal handler that interrupted a kernel.
[[gnu::format(printf, 2, 3)]] Result poison(Result code, const char* format, ...);

/// The code that poisoned the context, or `success`.
Result sticky();
void forget_errors();

/// Last part of a path: error texts do not depend on where the sources lie.
const char* file_name(const char* path);

/// Value of an environment variable, or the default. Read at every use: tests change it.
unsigned long long setting(const char* name, unsigned long long otherwise);

enum class Needs { nothing, driver, context };

/// One API call: holds the driver's lock and knows whether the call may go on.
class Call {
 public:
  explicit Call(Needs needs);
  ~Call();
  Call(const Call&) = delete;
  Result result;
};

/// A launch as recorded: everything but the time it runs.
struct Launch {
  const Kernel* kernel;
  uint3 grid, block;
  unsigned shared_bytes;
  alignas(128) unsigned char arguments[4096];
};

/// Runs the whole grid and waits for it.
Result run_launch(const Launch& launch);
int launch_count();

struct Work {
  enum Kind { kernel, copy_to_device, copy_to_host, copy_on_device, fill } kind;
  Launch launch;
  Pointer to, from;
  size_t bytes;
  unsigned char value;
};

Result perform(const Work& work);

/// Performs the work, or records it when the stream captures.
Result submit(void* stream, const Work& work);

/// Fail when this thread captures (relaxed captures aside), or when this stream does.
Result refuse_in_capture(const char* call);
Result refuse_capturing(void* stream, const char* call);

// Device memory (memory.cpp).
unsigned long long total_memory();
Result check_range(Pointer address, size_t bytes, const char* what);
Result check_red_zones(const char* after);
void release_everything();

// Signals of faulting kernels (faults.cpp).
void watch_faults(Worker* const* workers, unsigned count);
void ignore_faults();
void use_signal_stack(void* memory, size_t bytes);

}  // namespace xl
