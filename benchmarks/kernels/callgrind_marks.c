// What instructions.py tells callgrind from within the process that is counted.
#include <valgrind/callgrind.h>

void start_counting(void) {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
}

void stop_counting(const char* call) {
  CALLGRIND_DUMP_STATS_AT(call);
  CALLGRIND_STOP_INSTRUMENTATION;
}
