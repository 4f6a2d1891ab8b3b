// Streams and events. Work is done when it is submitted, so waiting is immediate. With
// XL_EMULATOR_BUSY=n the first n queries after a submission answer "not ready", as a real device
// would: loops that poll get something to do. Inside a capture, events only carry the capture to
// other streams.
//
// The default stream is refused: this house never uses it.

#include "stream.hpp"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "state.hpp"

namespace xl {
namespace {

constexpr unsigned disable_timing = 2;

Result wrong_handle(const char* call) {
  return report(invalid_handle, "%s: null or destroyed handle", call);
}

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

unsigned busy_queries() { return static_cast<unsigned>(setting("XL_EMULATOR_BUSY", 0)); }

/// Real queries: "not ready" is no failure, and leaves no text.
Result query(unsigned& busy) {
  if (busy == 0) return success;
  busy--;
  return not_ready;
}

Result perform_copy(const Work& work) {
  const bool to_device = work.kind != Work::copy_to_host;
  const bool from_device = work.kind != Work::copy_to_device;
  if (to_device)
    if (Result failure = check_range(work.to, work.bytes, "copy to the device")) return failure;
  if (from_device)
    if (Result failure = check_range(work.from, work.bytes, "copy from the device"))
      return failure;
  if (work.to == 0 || work.from == 0) return report(invalid_value, "copy: null host pointer");
  memmove(reinterpret_cast<void*>(work.to), reinterpret_cast<const void*>(work.from), work.bytes);
  return success;
}

Result copy(Work::Kind kind, Pointer to, Pointer from, size_t bytes, void* stream) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  Work work;
  work.kind = kind;
  work.to = to;
  work.from = from;
  work.bytes = bytes;
  return submit(stream, work);
}

}  // namespace

Result perform(const Work& work) {
  if (work.kind == Work::kernel) return run_launch(work.launch);
  if (work.bytes == 0) return success;
  if (work.kind != Work::fill) return perform_copy(work);
  if (Result failure = check_range(work.to, work.bytes, "fill")) return failure;
  memset(reinterpret_cast<void*>(work.to), work.value, work.bytes);
  return success;
}

Capture* running_capture(Stream& stream) {
  if (stream.capture != nullptr && stream.capture->ended) stream.capture = nullptr;
  return stream.capture;
}

Result submit(void* handle, const Work& work) {
  Stream* stream = object<Stream>(handle, Kind::stream);
  if (stream == nullptr) return wrong_handle("stream");
  Capture* capture = running_capture(*stream);
  if (capture == nullptr) {
    stream->busy = busy_queries();
    return perform(work);
  }
  if (capture->invalid) return report(capture_invalidated, "the capture has failed");
  if (append(*capture->nodes, work)) return success;
  return report(out_of_memory, "no memory for a graph node");
}

Result refuse_capturing(void* handle, const char* call) {
  Stream* stream = object<Stream>(handle, Kind::stream);
  if (stream == nullptr) return wrong_handle(call);
  if (running_capture(*stream) == nullptr) return success;
  stream->capture->invalid = true;
  return report(capture_unsupported, "%s on a stream that captures", call);
}

XL_EXPORT Result cuStreamCreateWithPriority(void** to, unsigned, int) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  Stream* made = static_cast<Stream*>(calloc(1, sizeof(Stream)));
  if (made == nullptr) return report(out_of_memory, "no memory for a stream");
  made->kind = Kind::stream;
  *to = made;
  return success;
}

XL_EXPORT Result cuStreamDestroy_v2(void* handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = refuse_capturing(handle, "cuStreamDestroy")) return failure;
  static_cast<Stream*>(handle)->kind = Kind::none;
  return success;
}

XL_EXPORT Result cuStreamSynchronize(void* handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = refuse_capturing(handle, "cuStreamSynchronize")) return failure;
  static_cast<Stream*>(handle)->busy = 0;
  return check_red_zones("cuStreamSynchronize");
}

XL_EXPORT Result cuStreamQuery(void* handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  if (Result failure = refuse_capturing(handle, "cuStreamQuery")) return failure;
  return query(static_cast<Stream*>(handle)->busy);
}

XL_EXPORT Result cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Stream* stream = object<Stream>(handle, Kind::stream);
  Event* event = object<Event>(event_handle, Kind::event);
  if (stream == nullptr || event == nullptr) return wrong_handle("cuStreamWaitEvent");
  Capture* capture = running_capture(*stream);
  if (event->capture == nullptr || event->capture->ended || capture == event->capture)
    return success;
  if (capture != nullptr)
    return report(capture_unsupported, "cuStreamWaitEvent: the event belongs to another capture");
  stream->capture = event->capture;
  return success;
}

XL_EXPORT Result cuEventCreate(void** to, unsigned flags) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  Event* made = static_cast<Event*>(calloc(1, sizeof(Event)));
  if (made == nullptr) return report(out_of_memory, "no memory for an event");
  made->kind = Kind::event;
  made->flags = flags;
  *to = made;
  return success;
}

XL_EXPORT Result cuEventDestroy_v2(void* handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Event* event = object<Event>(handle, Kind::event);
  if (event == nullptr) return wrong_handle("cuEventDestroy");
  event->kind = Kind::none;
  return success;
}

XL_EXPORT Result cuEventRecord(void* handle, void* stream_handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Event* event = object<Event>(handle, Kind::event);
  Stream* stream = object<Stream>(stream_handle, Kind::stream);
  if (event == nullptr || stream == nullptr) return wrong_handle("cuEventRecord");
  event->capture = running_capture(*stream);
  event->recorded = true;
  event->time = now();
  event->busy = busy_queries();
  return success;
}

XL_EXPORT Result cuEventQuery(void* handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Event* event = object<Event>(handle, Kind::event);
  if (event == nullptr) return wrong_handle("cuEventQuery");
  if (event->capture != nullptr)
    return report(captured_event, "cuEventQuery: recorded in a capture");
  return query(event->busy);
}

XL_EXPORT Result cuEventSynchronize(void* handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Event* event = object<Event>(handle, Kind::event);
  if (event == nullptr) return wrong_handle("cuEventSynchronize");
  if (event->capture != nullptr)
    return report(captured_event, "cuEventSynchronize: recorded in a capture");
  event->busy = 0;
  return check_red_zones("cuEventSynchronize");
}

XL_EXPORT Result cuEventElapsedTime_v2(float* to, void* start_handle, void* end_handle) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Event* start = object<Event>(start_handle, Kind::event);
  Event* end = object<Event>(end_handle, Kind::event);
  if (start == nullptr || end == nullptr) return wrong_handle("cuEventElapsedTime");
  if (!start->recorded || !end->recorded || ((start->flags | end->flags) & disable_timing) != 0)
    return report(invalid_handle, "cuEventElapsedTime: an event has no time");
  if (start->capture != nullptr || end->capture != nullptr)
    return report(captured_event, "cuEventElapsedTime: recorded in a capture");
  if (start->busy != 0 || end->busy != 0) return not_ready;
  *to = static_cast<float>(end->time - start->time);
  return success;
}

XL_EXPORT Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
  return copy(Work::copy_to_device, to, reinterpret_cast<Pointer>(from), bytes, stream);
}

XL_EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
  return copy(Work::copy_to_host, reinterpret_cast<Pointer>(to), from, bytes, stream);
}

XL_EXPORT Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
  return copy(Work::copy_on_device, to, from, bytes, stream);
}

XL_EXPORT Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void* stream) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  Work work;
  work.kind = Work::fill;
  work.to = to;
  work.bytes = bytes;
  work.value = value;
  return submit(stream, work);
}

}  // namespace xl
