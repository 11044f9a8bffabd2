import CRing

/// How this process takes memory from the system.
public enum ProcessHeap {
  /// Keeps pages that were touched once.
  ///
  /// Putting a block together takes some megabytes of arrays, of 100 KB and more each: every ten minutes, and in a hurry.
  /// By default glibc maps and unmaps each of these, and gives back what lies free at the end of its heap: the kernel then
  /// has to find and clear every page anew, about a microsecond for 4 KB on a virtual machine. Call it before other
  /// threads begin: from then on there is one heap for all of them.
  public static func keepPages() { heap_keep_pages() }
}
