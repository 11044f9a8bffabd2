extension ReportPage {
  /// Colours of the sites after Okabe and Ito, which colour-blind readers tell apart.
  static let style = """
    :root{color-scheme:light dark;--bg:#fff;--fg:#1a2027;--muted:#5d6873;--line:#e2e7ec;--card:#f6f8fa;--axis:#9aa5b1;\
    --good:#2f8f6b;--bad:#d1495b;--light:#c3ccd6;--land:#cfd8e1;--note:#fff4d6;--notefg:#6b4e00;\
    --c0:#0072b2;--c1:#e08e00;--c2:#009e73;--c3:#c35a95;--c4:#d55e00;--c5:#3aa0d8;--c6:#7b5fb5;--c7:#8a8a00;\
    --s0:#8fa6ba;--s1:#e8b23a;--s2:#009e73;--s3:#d55e00;--s4:#7b5fb5;--s5:#0072b2;--s6:#5d6873}
    @media (prefers-color-scheme:dark){:root{--bg:#11161c;--fg:#e6ebf0;--muted:#97a3af;--line:#28313b;--card:#182029;\
    --axis:#5b6875;--good:#49b68c;--bad:#ef6a7a;--light:#46525f;--land:#33404d;--note:#3a3116;--notefg:#f0d890;\
    --c0:#4aa8e8;--c1:#f2b03d;--c2:#35c79b;--c3:#e58cbc;--c4:#f58a4b;--c5:#86cdf5;--c6:#ab92e0;--c7:#c3c34a;\
    --s0:#70879c;--s6:#97a3af}}
    *{box-sizing:border-box}
    body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
    main{max-width:1240px;margin:0 auto;padding:28px 24px 40px}
    h1{font-size:28px;line-height:1.2;margin:0}
    h2{font-size:18px;margin:0 0 4px}
    p{margin:0 0 10px;color:var(--muted);max-width:88ch}
    p.lead{font-size:16px;margin-top:4px}
    p.note{display:inline-block;background:var(--note);color:var(--notefg);border-radius:6px;padding:4px 12px}
    p.none{padding:24px 0}
    p.aside{margin-top:16px}
    section,footer{margin-top:34px}
    .pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:0 40px}
    .tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:14px;margin-top:20px}
    .tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 18px}
    .tile .t{color:var(--muted);font-size:14px}
    .tile .v{font-size:34px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
    .tile .u{font-size:17px;font-weight:400;color:var(--muted)}
    .tile .d{font-size:13px;color:var(--muted)}
    svg{display:block;max-width:100%}
    svg.plot{width:100%;height:auto}
    svg text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:var(--fg);font-variant-numeric:tabular-nums}
    svg.spark text{font-size:11px;fill:var(--muted)}
    .grid{stroke:var(--line);stroke-width:1}
    .axis{stroke:var(--axis);stroke-width:1}
    .line{fill:none;stroke-width:2;stroke-linejoin:round}
    .trace{fill:none;stroke:var(--c0);stroke-width:1.5;stroke-linejoin:round}
    .rule{stroke:var(--fg);stroke-width:1.2;stroke-dasharray:4 3}
    .bracket{fill:none;stroke:var(--fg);stroke-width:1.1;opacity:.55}
    .ring{fill:var(--bg);stroke:var(--c2);stroke-width:2}
    .diamond{fill:var(--c4)}
    .arc{fill:none;stroke:var(--c0);opacity:.75}
    .land{fill:var(--land)}
    .site{fill:var(--c0);stroke:var(--bg);stroke-width:1.5}
    .home{fill:var(--c4)}
    .halo{paint-order:stroke;stroke:var(--bg);stroke-width:3.5px;stroke-linejoin:round}
    .wide{overflow-x:auto}
    table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;width:100%}
    th,td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
    th{color:var(--muted);font-weight:500}
    th:first-child,td:first-child,.l{text-align:left}
    table.key{margin-top:8px}
    i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px}
    .legend{max-width:none}
    .legend span{margin-right:16px;white-space:nowrap}
    code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.92em}
    footer{border-top:1px solid var(--line);padding-top:18px;font-size:14px}
    footer b{color:var(--fg)}
    """
}
