import ArgumentParser

@main
struct Lightpath: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "lightpath",
    abstract: "Carries new Bitcoin blocks between your sites with almost no delay beyond the speed of light in fibre.",
    discussion: """
      A network in four steps: `keygen` at each site; one topology file with every site's public key; `check` it; \
      `relay` at each site. `demo` shows it all on this machine.

      Exit status: 0 done, 1 it did not work, 2 the topology or another input is wrong, 3 a key file can't be used, \
      4 an address or socket is in use or not to be had, 5 no running relay answers, 64 wrong usage.
      """,
    version: "lightpath 1.0.0",
    subcommands: [
      Keygen.self, Check.self, RelayCommand.self, Status.self, SubmitBlock.self, Reload.self, ReportCommand.self,
      Demo.self, Simulate.self,
    ])
}

/// Exit codes; `lightpath --help` lists them.
enum Exit {
  static let failed = ExitCode(1)
  static let input = ExitCode(2)
  static let key = ExitCode(3)
  static let address = ExitCode(4)
  static let noRelay = ExitCode(5)
}
