//! Tiny x86-64 programs, made here so that a guest needs no compiler: one file that the kernel starts, that `ld.so` starts
//! or preloads, and whose code also runs where it is copied to. They write a text, or what is in a file.

/// A value of an argument.
#[derive(Clone, Copy, Debug)]
enum Value {
    Number(u64),
    /// Address of the data that follow the code.
    Data,
    /// Address of a buffer on the stack.
    Buffer,
    /// What the last call returned.
    Result,
}

/// Opcodes that load a register: a number, an address, `rsp` and `r13`.
type Register = ([u8; 2], [u8; 3], [[u8; 3]; 2]);

/// Bytes of the buffer.
const BUFFER: u32 = 4096;
/// Where code lies in a file.
const CODE: usize = 0x200;

/// Code under construction.
#[derive(Debug, Default)]
struct Code {
    bytes: Vec<u8>,
    /// Places of relative addresses of the data.
    references: Vec<usize>,
}

impl Code {
    fn begin() -> Self {
        let mut code = Self::default();
        // Only now is the stack aligned whatever jumped here: and rsp, -16; sub rsp, BUFFER.
        code.bytes.extend_from_slice(&[0x48, 0x83, 0xe4, 0xf0, 0x48, 0x81, 0xec]);
        code.bytes.extend_from_slice(&BUFFER.to_le_bytes());
        code
    }

    /// A system call; its result becomes [`Value::Result`].
    fn call(&mut self, number: i64, arguments: &[Value]) {
        // Opcode of `mov r64, imm64`, of `lea r64, [rip + x]`, and of `mov r64` from rsp and from r13.
        let registers: [Register; 5] = [
            ([0x48, 0xbf], [0x48, 0x8d, 0x3d], [[0x48, 0x89, 0xe7], [0x4c, 0x89, 0xef]]),
            ([0x48, 0xbe], [0x48, 0x8d, 0x35], [[0x48, 0x89, 0xe6], [0x4c, 0x89, 0xee]]),
            ([0x48, 0xba], [0x48, 0x8d, 0x15], [[0x48, 0x89, 0xe2], [0x4c, 0x89, 0xea]]),
            ([0x49, 0xba], [0x4c, 0x8d, 0x15], [[0x49, 0x89, 0xe2], [0x4d, 0x89, 0xea]]),
            ([0x49, 0xb8], [0x4c, 0x8d, 0x05], [[0x49, 0x89, 0xe0], [0x4d, 0x89, 0xe8]]),
        ];
        for (value, (number, address, copies)) in arguments.iter().zip(registers) {
            match value {
                Value::Number(word) => {
                    self.bytes.extend_from_slice(&number);
                    self.bytes.extend_from_slice(&word.to_le_bytes());
                }
                Value::Data => {
                    self.bytes.extend_from_slice(&address);
                    self.references.push(self.bytes.len());
                    self.bytes.extend_from_slice(&[0; 4]);
                }
                Value::Buffer => self.bytes.extend_from_slice(&copies[0]),
                Value::Result => self.bytes.extend_from_slice(&copies[1]),
            }
        }
        // mov eax, number; syscall; mov r13, rax.
        self.bytes.push(0xb8);
        self.bytes.extend_from_slice(&(number as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0x0f, 0x05, 0x49, 0x89, 0xc5]);
    }

    fn finish(mut self, data: &[u8]) -> Vec<u8> {
        self.call(libc::SYS_exit_group, &[Value::Number(0)]);
        for at in self.references {
            let distance = (self.bytes.len() - at - 4) as u32;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        self.bytes.extend_from_slice(data);
        self.bytes
    }
}

/// Code that writes a text to standard output and ends the process.
pub(crate) fn says(text: &[u8]) -> Vec<u8> {
    let mut code = Code::begin();
    code.call(libc::SYS_write, &[Value::Number(1), Value::Data, Value::Number(text.len() as u64)]);
    code.finish(text)
}

/// Code that writes the beginning of a file to standard output and ends the process. Makes these calls first.
pub(crate) fn reads(path: &[u8], before: &[(i64, [u64; 5])]) -> Vec<u8> {
    let mut code = Code::begin();
    for (number, arguments) in before {
        code.call(*number, &arguments.map(Value::Number));
    }
    code.call(libc::SYS_open, &[Value::Data, Value::Number(0), Value::Number(0)]);
    code.call(libc::SYS_read, &[Value::Result, Value::Buffer, Value::Number(BUFFER.into())]);
    code.call(libc::SYS_write, &[Value::Number(1), Value::Buffer, Value::Result]);
    let mut data = path.to_vec();
    data.push(0);
    code.finish(&data)
}

/// A file with this code: a program, and a library that runs the code when it is loaded.
pub(crate) fn file(code: &[u8]) -> Vec<u8> {
    let total = (CODE + code.len()) as u64;
    let (dynamic, symbols, strings, hash) = (0x100_u64, 0x180_u64, 0x198_u64, 0x1a0_u64);
    let mut image = vec![0_u8; CODE];
    let mut put =
        |at: u64, bytes: &[u8]| image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    // ET_DYN, x86-64, version 1, entry, program headers at 0x40, no sections; sizes and 3 program headers.
    put(0x10, &3_u16.to_le_bytes());
    put(0x12, &62_u16.to_le_bytes());
    put(0x14, &1_u32.to_le_bytes());
    put(0x18, &(CODE as u64).to_le_bytes());
    put(0x20, &0x40_u64.to_le_bytes());
    for (at, half) in (0x34..).step_by(2).zip([0x40_u16, 0x38, 3, 0x40, 0, 0]) {
        put(at, &half.to_le_bytes());
    }
    // PT_LOAD of everything, PT_DYNAMIC, PT_GNU_STACK: type, flags, offset, size, alignment.
    let headers = [
        (1_u32, 7_u32, 0, total, 0x1000_u64),
        (2, 6, dynamic, symbols - dynamic, 8),
        (0x6474_e551, 6, 0, 0, 16),
    ];
    for (at, (kind, flags, offset, size, alignment)) in (0x40..).step_by(0x38).zip(headers) {
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (at, word) in (at + 8..).step_by(8).zip([offset, offset, offset, size, size, alignment]) {
            put(at, &word.to_le_bytes());
        }
    }
    // DT_INIT, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_NULL.
    let entries: [(u64, u64); 7] =
        [(12, CODE as u64), (4, hash), (5, strings), (6, symbols), (10, 1), (11, 24), (0, 0)];
    for (at, (tag, value)) in (dynamic..).step_by(16).zip(entries) {
        put(at, &tag.to_le_bytes());
        put(at + 8, &value.to_le_bytes());
    }
    // One bucket and one symbol, the empty one.
    put(hash, &1_u32.to_le_bytes());
    put(hash + 4, &1_u32.to_le_bytes());
    image.extend_from_slice(code);
    image
}
