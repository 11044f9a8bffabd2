import CRing

/// Each method gets the same core for the same side.
func pinThread(_ cpu: Int) { _ = thread_pin(Int32(cpu)) }
