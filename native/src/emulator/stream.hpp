// Streams, events and graphs as objects behind opaque handles.

#pragma once

#include "driver.hpp"

namespace xl {

/// What a handle points at begins with its kind; a destroyed object has none. The objects
/// themselves are never freed: using a dead handle is an error to report, not a crash.
enum class Kind : unsigned { none, stream, event, graph, executable };

struct Node {
  Work work;
  Node* next;
};

/// Shared by a graph and its executables.
struct Nodes {
  Node* first;
  Node* last;
  unsigned owners;
};

struct Graph {
  Kind kind;
  Nodes* nodes;
};

/// Streams and events that joined a capture notice by themselves that it has ended, so it is never
/// freed either.
struct Capture {
  Nodes* nodes;
  struct Stream* origin;
  bool strict;  // not relaxed: counts for the thread that began it
  bool invalid;
  bool ended;
};

struct Stream {
  Kind kind;
  Capture* capture;
  unsigned busy;  // queries that still answer "not ready"
};

struct Event {
  Kind kind;
  unsigned flags;
  bool recorded;
  double time;  // milliseconds
  Capture* capture;
  unsigned busy;
};

template <typename T> T* object(void* handle, Kind kind) {
  T* found = static_cast<T*>(handle);
  return found != nullptr && found->kind == kind ? found : nullptr;
}

/// The stream's capture that still runs, or null.
Capture* running_capture(Stream& stream);

Nodes* new_nodes();
bool append(Nodes& nodes, const Work& work);
void drop_nodes(Nodes* nodes);

}  // namespace xl
