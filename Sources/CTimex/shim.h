#pragma once
/* adjtimex(2): Swift's Glibc module leaves <sys/timex.h> out. */
#include <features.h>
#include <sys/timex.h>
