#include "emulator/sanitizer.h"

#if defined(__linux__)
#include <sys/personality.h>
#include <unistd.h>
#endif

namespace emulator {

void without_address_randomisation([[maybe_unused]] char** arguments) {
#if defined(__linux__)
  const int now = kThreadSanitizer ? personality(0xFFFFFFFF) : -1;
  if (now == -1 || now & ADDR_NO_RANDOMIZE) return;
  // Where neither is allowed, ThreadSanitizer says itself what it misses.
  if (personality(unsigned(now) | ADDR_NO_RANDOMIZE) != -1) execv("/proc/self/exe", arguments);
#endif
}

}  // namespace emulator
