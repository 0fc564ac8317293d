#include "emulator/warp.h"

#include <bit>
#include <cstdio>
#include <cstring>

namespace emulator {
namespace {

std::string in_hex(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

Meeting& meeting_of(Warp& warp, unsigned mask) {
  if (mask == warp.full.mask) return warp.full;
  for (Meeting& meeting : warp.partial)
    if (meeting.mask == mask) return meeting;
  warp.partial.emplace_back().mask = mask;
  return warp.partial.back();
}

bool same_place(const Meeting& meeting, const char* what, std::source_location where) {
  return meeting.where.line() == where.line() && (meeting.what == what || std::strcmp(meeting.what, what) == 0);
}

void check_arrival(const Meeting& meeting, const Thread& thread, const char* what, std::source_location where) {
  const unsigned mask = meeting.mask;
  if (!(mask >> thread.lane & 1))
    fail(std::string(what) + ": lane " + std::to_string(thread.lane) + " calls it but is not in its mask " +
             in_hex(mask),
         where);
  if (mask & ~thread.warp->alive)
    fail(std::string(what) + ": mask " + in_hex(mask) + " names lane " +
             std::to_string(std::countr_zero(mask & ~thread.warp->alive)) + ", which has ended or does not exist",
         where);
  if (meeting.arrived && !same_place(meeting, what, where))
    fail(std::string("divergent collective: this lane is in ") + what + " while others of mask " + in_hex(mask) +
             " wait in " + meeting.what + " at " + to_string(meeting.where),
         where);
}

}  // namespace

const unsigned char* meet(unsigned mask, const void* value, size_t bytes, const char* what,
                          std::source_location where) {
  const Unobserved unobserved;
  Thread& thread = this_thread();
  Meeting& meeting = meeting_of(*thread.warp, mask);
  check_arrival(meeting, thread, what, where);
  unsigned char* deposits = meeting.deposits[meeting.generation & 1];
  if (!meeting.arrived) {
    meeting.what = what, meeting.where = where;
    if (mask != ~0u) std::memset(deposits, 0xFF, sizeof meeting.deposits[0]);
  }
  std::memcpy(deposits + size_t(thread.lane) * bytes, value, bytes);
  meeting.arrived |= 1u << thread.lane;
  if (meeting.arrived == mask) {
    meeting.arrived = 0;
    ++meeting.generation;
    thread.warp->ready |= mask;
  }
  wait(what, where);
  return deposits;
}

void synchronize_warp(unsigned mask, std::source_location where) {
  OrderToken* order;
  {
    const Unobserved unobserved;
    Meeting& meeting = meeting_of(*this_thread().warp, mask);
    order = &meeting.order[meeting.generation & 1];
  }
  order->release();
  meet(mask, "", 1, "__syncwarp", where);
  order->acquire();
}

int first_lane(int width, const char* what, std::source_location where) {
  if (width < 1 || width > warpSize || !std::has_single_bit(unsigned(width)))
    fail(std::string(what) + ": width must be a power of two from 1 to 32, got " + std::to_string(width), where);
  return this_thread().lane & ~(width - 1);
}

void check_source(unsigned mask, int source, const char* what, std::source_location where) {
  if (!(mask >> source & 1))
    fail(std::string(what) + ": reads lane " + std::to_string(source) + ", which is not in its mask " + in_hex(mask),
         where);
}

}  // namespace emulator
