#!/usr/bin/env python3
"""Makes the expected data of BitcoinTests with implementations that share nothing with Lightpath's.

  pip install python-bitcoinlib==0.12.2 && ./make_expected.py

blocks.json      what python-bitcoinlib finds in Tests/RealBlocks/blocks
messages.json    P2P messages as python-bitcoinlib serialises them
difficulty.json  nBits that the rules ask for, worked out here with Python's big integers from BIP94 and the
                 description of the testnet exception

The binary files are real mainnet headers, 80 bytes each (from https://github.com/EthanYuan/ckb-bitcoin-spv-testdata):
mainnet-periods.bin        the first and the last header of every difficulty period, heights 0, 2015, 2016 … 832608
mainnet-822528.bin         heights 822528 … 824547, with the retarget at 824544
mainnet-stale-823226.bin   a stale block's header at height 823226
"""
import json
import random
from pathlib import Path

import bitcoin
import bitcoin.messages as m
import bitcoin.net as net
from bitcoin.core import CBlock
from bitcoin.core.serialize import Hash

here = Path(__file__).parent
folder = here.parent.parent / "RealBlocks" / "blocks"


def shown(b):
    return b[::-1].hex()


def blocks():
    result = {}
    for path in sorted(folder.glob("*.raw")):
        if path.stem.startswith("compact"):
            continue
        raw = path.read_bytes()
        block = CBlock.deserialize(raw)
        assert block.serialize() == raw
        coinbase = block.vtx[0]
        commitment = None
        try:
            index = block.get_witness_commitment_index()
        except ValueError:
            index = None
        nonce = coinbase.wit.vtxinwit[0].scriptWitness.stack if coinbase.wit and coinbase.wit.vtxinwit else ()
        if index is not None and len(nonce) == 1:
            root = block.calc_witness_merkle_root()
            commitment = Hash(root + nonce[0])
            assert coinbase.vout[index].scriptPubKey[6:38] == commitment
        result[path.stem] = {
            "hash": shown(block.GetHash()),
            "merkleRoot": shown(block.calc_merkle_root()),
            "commitment": shown(commitment) if commitment else None,
            "bytes": len(raw),
            "weight": block.GetWeight(),
            "txids": [shown(t.GetTxid()) for t in block.vtx],
            # None where it is the txid
            "wtxids": [shown(t.GetHash()) if t.has_witness() else None for t in block.vtx],
            "weights": [t.calc_weight() for t in block.vtx],
        }
    return result


def messages():
    rng = random.Random(152)
    bitcoin.SelectParams("mainnet")
    tx = CBlock.deserialize((folder / "482683.raw").read_bytes()).vtx[3]
    block = CBlock.deserialize((folder / "898352.raw").read_bytes())

    def address(proto):
        a = net.CAddress(proto)
        a.nTime = 1700000000
        a.nServices = 1033
        a.ip = "203.0.113.7"
        a.port = 8333
        return a

    version = m.msg_version(70016)
    version.nTime = 1700000000
    version.nServices = 1033
    version.nNonce = 0x1122334455667788
    version.nStartingHeight = 868000
    version.strSubVer = b"/Expected:0.12/"
    version.fRelay = True
    version.addrTo = address(net.PROTO_VERSION)
    version.addrFrom = address(net.PROTO_VERSION)

    addr = m.msg_addr()
    addr.addrs = [address(net.PROTO_VERSION) for _ in range(3)]

    def inventory(message, count):
        for _ in range(count):
            item = net.CInv()
            item.type = rng.choice([1, 2])
            item.hash = rng.randbytes(32)
            message.inv.append(item)
        return message

    def locator(message):
        message.locator.nVersion = 70016
        message.locator.vHave = [rng.randbytes(32) for _ in range(12)]
        message.hashstop = rng.randbytes(32)
        return message

    # Not `headers`: python-bitcoinlib leaves out the transaction count that follows each header.
    made = [
        version, m.msg_verack(), addr, m.msg_getaddr(), inventory(m.msg_inv(), 5), inventory(m.msg_getdata(), 300),
        inventory(m.msg_notfound(), 1), locator(m.msg_getblocks()), locator(m.msg_getheaders()),
        m.msg_mempool(), m.msg_ping(70016, 42), m.msg_pong(70016, 43),
    ]
    transaction = m.msg_tx()
    transaction.tx = tx
    whole = m.msg_block()
    whole.block = block
    made += [transaction, whole]
    return [{"command": a.command.decode(), "frame": a.to_bytes().hex()} for a in made]


def target(bits):
    size, word = bits >> 24, bits & 0x7FFFFF
    return word >> 8 * (3 - size) if size <= 3 else word << 8 * (size - 3)


def compact(value):
    size = (value.bit_length() + 7) // 8
    word = value << 8 * (3 - size) if size <= 3 else value >> 8 * (size - 3)
    if word & 0x800000:
        word, size = word >> 8, size + 1
    return word | size << 24


def difficulty():
    """Chains of (time, bits) under each network's rule, with times that provoke every branch of it."""
    chains = {}
    limits = {"main": 2**224 - 1, "test": 2**224 - 1, "testnet4": 2**224 - 1, "signet": 0x377AE << 216}
    for seed, (name, limit) in enumerate(limits.items()):
        rng = random.Random(seed)
        exception = name in ("test", "testnet4")
        start = 0x1B0404CB if name != "signet" else 0x1D0377AE
        times, bits = [1_600_000_000], [start]
        pace = 600
        for height in range(1, 5 * 2016 + 100):
            if height % 2016 == 0:
                # Slow and fast periods, some beyond the factor of four; in the third, a time before the last one's.
                pace = [600, 60, 4000, 500, 700, 300][height // 2016]
            step = rng.choice([pace // 2, pace, 2 * pace, -30, 1200, 1201] if exception else [pace // 2, pace, 2 * pace])
            time = times[-1] + step
            if height % 2016 == 0:
                base = bits[height - 2016] if name == "testnet4" else bits[-1]
                span = min(max(times[-1] - times[height - 2016], 1209600 // 4), 1209600 * 4)
                need = compact(min(target(base) * span // 1209600, limit))
            elif exception and time > times[-1] + 1200:
                need = compact(limit)
            elif exception:
                at = height - 1
                while at % 2016 and bits[at] == compact(limit):
                    at -= 1
                need = bits[at]
            else:
                need = bits[-1]
            times.append(time)
            bits.append(need)
        chains[name] = {"start": 0, "times": times, "bits": bits}
    return chains


def dump(name, value):
    (here / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


dump("blocks.json", blocks())
dump("messages.json", messages())
dump("difficulty.json", difficulty())
