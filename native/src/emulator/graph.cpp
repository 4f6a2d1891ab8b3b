// Capture and replay. A capture lists work in the order of the calls, which is an order every
// stream agrees with; a replay performs the list. Arguments are copied when they are recorded;
// memory, the host's included, is read and written at every replay.

#include <stdlib.h>
#include <string.h>

#include "state.hpp"
#include "stream.hpp"

namespace xl {
namespace {

constexpr int relaxed = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED
thread_local int strict_captures = 0;

Result new_graph(void** to, Kind kind, Nodes* nodes) {
  Graph* made = static_cast<Graph*>(calloc(1, sizeof(Graph)));
  if (made == nullptr) return report(out_of_memory, "no memory for a graph");
  made->kind = kind;
  made->nodes = nodes;
  *to = made;
  return success;
}

Result destroy(void* handle, Kind kind, const char* call) {
  Graph* graph = object<Graph>(handle, kind);
  if (graph == nullptr) return report(invalid_handle, "%s: null or destroyed handle", call);
  drop_nodes(graph->nodes);
  graph->kind = Kind::none;
  return success;
}

}  // namespace

Nodes* new_nodes() {
  Nodes* made = static_cast<Nodes*>(calloc(1, sizeof(Nodes)));
  if (made != nullptr) made->owners = 1;
  return made;
}

bool append(Nodes& nodes, const Work& work) {
  Node* made = static_cast<Node*>(aligned_alloc(alignof(Node), sizeof(Node)));
  if (made == nullptr) return false;
  made->work = work;
  made->next = nullptr;
  (nodes.last == nullptr ? nodes.first : nodes.last->next) = made;
  nodes.last = made;
  return true;
}

void drop_nodes(Nodes* nodes) {
  if (--nodes->owners > 0) return;
  while (nodes->first != nullptr) {
    Node* gone = nodes->first;
    nodes->first = gone->next;
    free(gone);
  }
  free(nodes);
}

Result refuse_in_capture(const char* call) {
  if (strict_captures == 0) return success;
  return report(capture_unsupported, "%s while this thread captures", call);
}

XL_EXPORT Result cuStreamBeginCapture_v2(void* handle, int mode) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Stream* stream = object<Stream>(handle, Kind::stream);
  if (stream == nullptr) return report(invalid_handle, "cuStreamBeginCapture: no such stream");
  if (mode < 0 || mode > relaxed) return report(invalid_value, "capture mode %d", mode);
  if (running_capture(*stream) != nullptr)
    return report(invalid_value, "the stream captures already");
  Capture* made = static_cast<Capture*>(calloc(1, sizeof(Capture)));
  Nodes* nodes = new_nodes();
  if (made == nullptr || nodes == nullptr) return report(out_of_memory, "no memory for a capture");
  made->nodes = nodes;
  made->origin = stream;
  made->strict = mode != relaxed;
  strict_captures += made->strict;
  stream->capture = made;
  return success;
}

XL_EXPORT Result cuStreamEndCapture(void* handle, void** to) {
  Call call(Needs::driver);
  if (call.result != success) return call.result;
  Stream* stream = object<Stream>(handle, Kind::stream);
  if (stream == nullptr) return report(invalid_handle, "cuStreamEndCapture: no such stream");
  Capture* capture = running_capture(*stream);
  if (capture == nullptr || capture->origin != stream)
    return report(capture_unmatched, "cuStreamEndCapture: no capture began on this stream");
  strict_captures -= capture->strict;
  stream->capture = nullptr;
  capture->ended = true;
  *to = nullptr;
  if (!capture->invalid) return new_graph(to, Kind::graph, capture->nodes);
  drop_nodes(capture->nodes);
  return report(capture_invalidated, "a call inside of the capture is not allowed there");
}

XL_EXPORT Result cuGraphInstantiateWithFlags(void** to, void* handle, unsigned long long) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  Graph* graph = object<Graph>(handle, Kind::graph);
  if (graph == nullptr) return report(invalid_handle, "cuGraphInstantiate: no such graph");
  graph->nodes->owners++;
  return new_graph(to, Kind::executable, graph->nodes);
}

XL_EXPORT Result cuGraphLaunch(void* handle, void* stream) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_capturing(stream, "cuGraphLaunch")) return failure;
  Graph* executable = object<Graph>(handle, Kind::executable);
  if (executable == nullptr) return report(invalid_handle, "cuGraphLaunch: no such graph");
  for (const Node* node = executable->nodes->first; node != nullptr; node = node->next)
    if (Result failure = submit(stream, node->work)) return failure;
  return success;
}

XL_EXPORT Result cuGraphExecDestroy(void* handle) {
  Call call(Needs::nothing);
  return destroy(handle, Kind::executable, "cuGraphExecDestroy");
}

XL_EXPORT Result cuGraphDestroy(void* handle) {
  Call call(Needs::nothing);
  return destroy(handle, Kind::graph, "cuGraphDestroy");
}

}  // namespace xl
