//! Instructions of the kernel's packet filter, by name (Linux `include/uapi/linux/bpf_common.h`, `Documentation/networking/filter.rst`).

#![expect(clippy::cast_possible_truncation, reason = "libc has the opcodes, which are 16 bits, in 32")]

use libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W,
};
use socket2::SockFilter;

const BPF_LD_W_ABS: u16 = (BPF_LD | BPF_W | BPF_ABS) as u16;
const BPF_LD_H_ABS: u16 = (BPF_LD | BPF_H | BPF_ABS) as u16;
const BPF_LD_B_ABS: u16 = (BPF_LD | BPF_B | BPF_ABS) as u16;
const BPF_LD_H_IND: u16 = (BPF_LD | BPF_H | BPF_IND) as u16;
const BPF_LD_B_IND: u16 = (BPF_LD | BPF_B | BPF_IND) as u16;
const BPF_LDX_B_MSH: u16 = (BPF_LDX | BPF_B | BPF_MSH) as u16;
const BPF_JMP_JEQ_K: u16 = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
const BPF_JMP_JSET_K: u16 = (BPF_JMP | BPF_JSET | BPF_K) as u16;
const BPF_RET_K: u16 = (BPF_RET | BPF_K) as u16;

pub(super) const fn load_word(at: u32) -> SockFilter {
    SockFilter::new(BPF_LD_W_ABS, 0, 0, at)
}

pub(super) const fn load_half(at: u32) -> SockFilter {
    SockFilter::new(BPF_LD_H_ABS, 0, 0, at)
}

pub(super) const fn load_byte(at: u32) -> SockFilter {
    SockFilter::new(BPF_LD_B_ABS, 0, 0, at)
}

/// Loads the length of the IPv4 header at the start of the packet into the index register.
pub(super) const fn v4_header_to_index() -> SockFilter {
    SockFilter::new(BPF_LDX_B_MSH, 0, 0, 0)
}

pub(super) const fn load_half_behind_index(at: u32) -> SockFilter {
    SockFilter::new(BPF_LD_H_IND, 0, 0, at)
}

pub(super) const fn load_byte_behind_index(at: u32) -> SockFilter {
    SockFilter::new(BPF_LD_B_IND, 0, 0, at)
}

/// Skips `then` instructions if the loaded value equals `value`, otherwise `otherwise` instructions.
pub(super) const fn if_equal(value: u32, then: u8, otherwise: u8) -> SockFilter {
    SockFilter::new(BPF_JMP_JEQ_K, then, otherwise, value)
}

/// Skips `then` instructions if the loaded value has any of these bits, otherwise `otherwise` instructions.
pub(super) const fn if_any(bits: u32, then: u8, otherwise: u8) -> SockFilter {
    SockFilter::new(BPF_JMP_JSET_K, then, otherwise, bits)
}

/// Ends the program: keeps this many bytes of the packet; 0 drops it.
pub(super) const fn ret(bytes: u32) -> SockFilter {
    SockFilter::new(BPF_RET_K, 0, 0, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_that_the_kernel_documents() {
        let loads = [BPF_LD_W_ABS, BPF_LD_H_ABS, BPF_LD_B_ABS, BPF_LD_H_IND, BPF_LD_B_IND, BPF_LDX_B_MSH];
        assert_eq!(loads, [0x20, 0x28, 0x30, 0x48, 0x50, 0xb1]);
        assert_eq!([BPF_JMP_JEQ_K, BPF_JMP_JSET_K, BPF_RET_K], [0x15, 0x45, 0x06]);
    }
}
