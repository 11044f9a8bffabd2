// swift-tools-version: 6.2
import PackageDescription

// Rooms and who may knock on whose door: the dependency lists below are the architecture (Sources/ARCHITECTURE.md
// draws it). SwiftPM refuses cycles; `.ci/run` also refuses imports that are not declared here.

let swift: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableExperimentalFeature("Lifetimes"),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  // The rooms are small and call each other per packet: let the optimiser see through the walls.
  .unsafeFlags(["-cross-module-optimization"], .when(configuration: .release)),
]

// Kernels without optimisation would make debug builds unusable; there is nothing in them to step through.
let kernels: [CSetting] = [.unsafeFlags(["-O3", "-fno-strict-aliasing"])]

func room(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = ["README.md"]) -> Target {
  .target(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: swift)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
  .testTarget(
    name: "\(name)Tests", dependencies: [.byName(name: name)] + dependencies, exclude: exclude,
    swiftSettings: swift)
}

func bench(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
  .executableTarget(
    name: "bench-\(name)",
    dependencies: ["Harness", .product(name: "ArgumentParser", package: "swift-argument-parser")] + dependencies,
    path: "Bench/\(name)", exclude: exclude, swiftSettings: swift)
}

let package = Package(
  name: "lightpath",
  dependencies: [
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", exact: "0.2.0"),
    .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
  ],
  targets: [
    // C that Swift has no way to say, and the libraries it links.
    .systemLibrary(name: "CLiburing", pkgConfig: "liburing", providers: [.apt(["liburing-dev"])]),
    .systemLibrary(name: "CLibsodium", pkgConfig: "libsodium", providers: [.apt(["libsodium-dev"])]),
    .systemLibrary(name: "CLibsecp256k1", pkgConfig: "libsecp256k1", providers: [.apt(["libsecp256k1-dev"])]),
    .systemLibrary(name: "CLibsqlite3", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),
    .systemLibrary(name: "CTimex"),
    .target(name: "CRing", dependencies: ["CLiburing"], cSettings: kernels),
    .target(name: "CKernels", cSettings: kernels),

    // The rooms, from the ground up.
    room("Ground", []),
    room("Bitcoin", ["Ground", "CKernels"]),
    room("ErasureCode", ["CKernels"], exclude: ["README.md", "CODE.md"]),
    room("Mempool", ["Bitcoin", "Ground", "CKernels"]),
    room("Wire", ["Ground"]),
    room(
      "Session", ["Wire", "Ground", "CLibsodium", "CLibsecp256k1"],
      exclude: ["README.md", "WIRE-FORMAT.md", "THREAT-MODEL.md"]),
    room("Uring", ["Ground", "CRing", "CLiburing"]),
    room(
      "Relay", ["Bitcoin", "ErasureCode", "Mempool", "Session", "Wire", "Ground", "CKernels"],
      exclude: ["README.md", "PROTOCOL.md", "SKETCH.md", "REDUNDANCY.md"]),
    room("Topology", ["Ground", "CLibsecp256k1"]),
    room("Simulation", ["Relay", "Session", "Mempool", "Bitcoin", "Wire", "Topology", "Ground"]),

    room(
      "Measurement",
      ["Ground", "CLibsqlite3", "CTimex", .product(name: "Histogram", package: "hdrhistogram-swift")]),
    room("RegtestNode", ["Bitcoin", "Ground"]),
    room("NodeBridge", ["Bitcoin", "Mempool", "Ground"]),
    room(
      "Site", ["Relay", "NodeBridge", "Session", "Wire", "Mempool", "Bitcoin", "Topology", "Measurement", "Ground"]),
    .executableTarget(
      name: "lightpath",
      dependencies: [
        "Site", "Simulation", "Uring", "Relay", "NodeBridge", "Session", "Mempool", "Bitcoin", "Topology",
        "RegtestNode", "Ground", "Measurement", "CTimex",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: swift),

    // Real blocks and the ways to load them, for tests and benches.
    .target(name: "RealBlocks", path: "Tests/RealBlocks", exclude: ["blocks"], swiftSettings: swift),
    tests("Ground", []),
    tests("Bitcoin", ["Ground", "CKernels", "RealBlocks"], exclude: ["Expected"]),
    tests("ErasureCode", ["Ground", "Bitcoin", "RealBlocks", "CKernels", "UringSupport"]),
    tests("Wire", ["Ground"]),
    tests("Mempool", ["Ground", "Bitcoin", "RealBlocks", "CKernels"]),
    // Where the cores of Relay and Site send to under a virtual clock.
    .target(name: "MemorySink", dependencies: ["Ground"], path: "Tests/MemorySink", swiftSettings: swift),
    tests(
      "Relay",
      [
        "Ground", "Bitcoin", "ErasureCode", "Mempool", "Session", "Wire", "RealBlocks", "MemorySink", "UringSupport",
      ]),
    // UringSupport counts the calling thread's allocations, here and for ErasureCode and Relay.
    tests("Session", ["Ground", "Wire", "UringSupport"]),
    tests("Measurement", ["Ground", "CLibsqlite3"]),
    .target(
      name: "BridgeSite", dependencies: ["Bitcoin", "Ground", "Mempool", "NodeBridge", "Uring"],
      path: "Tests/BridgeSite", swiftSettings: swift),
    tests("NodeBridge", ["BridgeSite", "Bitcoin", "Ground", "Mempool", "RegtestNode", "Uring"]),
    tests("Topology", ["Ground"]),
    tests("Simulation", ["Ground", "Topology", "RealBlocks"]),
    tests(
      "Site",
      [
        "Relay", "NodeBridge", "Session", "Wire", "Mempool", "Bitcoin", "Measurement", "Ground", "RealBlocks",
        "MemorySink", "BridgeSite", "RegtestNode", "Topology", "Uring",
      ]),
    .testTarget(
      name: "LightpathTests",
      dependencies: ["lightpath", "Session", "Bitcoin", "RegtestNode", "Uring", "Ground", "RealBlocks"],
      swiftSettings: swift),
    .target(name: "UringSupport", path: "Tests/UringSupport"),
    tests("Uring", ["Ground", "CRing", "UringSupport"]),

    .target(name: "Harness", dependencies: ["Ground"], path: "Bench/Harness", swiftSettings: swift),
    tests("Harness", []),
    bench("bitcoin", ["Bitcoin", "Ground", "RealBlocks", "CKernels"]),
    bench("erasure", ["ErasureCode", "Bitcoin", "Ground", "RealBlocks"]),
    bench("uring", ["Uring", "Ground", "CRing", "UringSupport"]),
    bench("simulation", ["Simulation", "Topology", "Bitcoin", "Ground", "RealBlocks"]),
    bench("chaos", ["Simulation", "Ground", "RealBlocks"]),
    .target(name: "CNamespace", path: "Bench/propagation/CNamespace"),
    bench(
      "propagation", ["CNamespace", "Bitcoin", "Ground", "RegtestNode"], exclude: ["CNamespace", "README.md"]),
    bench("bridge", ["BridgeSite", "Bitcoin", "Ground", "NodeBridge", "RegtestNode"]),
    bench("mempool", ["Mempool", "Bitcoin", "Ground", "RealBlocks", "CKernels"]),
    bench(
      "relay",
      ["Relay", "Mempool", "Session", "Bitcoin", "Ground", "RealBlocks", "CLibsodium", "Uring", "UringSupport"]),
    bench("session", ["Session", "Wire", "Ground", "CLibsodium"]),
    bench("soak", ["Session", "Ground", "RealBlocks"]),
  ]
)
