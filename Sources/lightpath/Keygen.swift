import ArgumentParser
import Foundation
import Session

struct Keygen: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Makes a relay's identity, or the overlay's shared secret.",
    discussion: """
      The key file is made with mode 0600 and never overwritten. The public key that is printed goes into the topology \
      file; the file stays at the site.

      With --overlay it makes the secret that all sites of an overlay share: make it once and carry it to each site \
      over a safe channel. With --rotate a new epoch is added to that file; carry the file to every site again.

      Exit status: 0 done, 3 the file can't be written (it exists already, for one), 64 wrong usage.
      """)

  @Argument(help: "The file to make.", completion: .file())
  var file: String

  @Flag(help: "The overlay's shared secret instead of a relay's key.")
  var overlay = false

  @Flag(help: "With --overlay: add an epoch to an existing file.")
  var rotate = false

  @Flag(help: "One JSON object.")
  var json = false

  func validate() throws {
    if rotate && !overlay { throw ValidationError("--rotate is for overlay secrets: add --overlay") }
  }

  private struct Output: Encodable {
    var file: String
    var public_key: String?
    var epochs: [UInt32]?
  }

  func run() throws {
    do { try make() } catch let error as SecretFileError {
      if case .system(_, _, let code) = error, code == EEXIST {
        throw failure(
          Exit.key, "\(file) exists already; a key is never overwritten: choose another name or move it away")
      }
      throw failure(Exit.key, "\(error)")
    }
  }

  private func make() throws {
    if overlay {
      let secret: OverlaySecret
      if rotate {
        let old = try OverlaySecret(contentsOf: file)
        if !old.canRotate {
          throw failure(Exit.key, "\(file): no epoch comes after \(old.epochs.last!): make a new secret for all sites")
        }
        secret = old.rotated()
        try secret.write(to: file, replacing: true)
      } else {
        secret = OverlaySecret(generatedFrom: .system)
        try secret.write(to: file)
      }
      if json {
        print(lightpath.json(Output(file: file, epochs: secret.epochs)))
      } else {
        print("\(file): overlay secret, epochs \(secret.epochs.map(String.init).joined(separator: ", "))")
        print("Carry it to every site over a safe channel (scp); all sites need the same file.")
      }
    } else {
      let identity = Identity(generatedFrom: .system)
      try identity.write(to: file)
      if json {
        print(lightpath.json(Output(file: file, public_key: "\(identity.publicKey)")))
      } else {
        print("public_key = \"\(identity.publicKey)\"")
        complain("the secret half is in \(file), mode 0600; the line above goes into the topology file")
      }
    }
  }
}
