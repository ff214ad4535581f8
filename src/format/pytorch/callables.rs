//! The classes and functions that pickles of PyTorch name: those whose meaning is known, and those that run something.

use crate::base::finding::Severity;
use crate::format::pytorch::pickle::{EXTENSIONS, Global};
use crate::format::strided::Kind;
use crate::model::DType;

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A tensor: storage, offset, size, stride.
    Tensor,
    /// A tensor of a type of its own: storage, offset, size, stride, requires_grad, hooks, dtype.
    TypedTensor,
    /// The first argument, as a parameter.
    Parameter,
    /// A quantised tensor: storage, offset, size, stride, quantiser.
    Quantised,
    /// A sparse tensor: layout, parts.
    Sparse,
    /// A tensor without values: dtype, size.
    Meta,
    /// A tensor of a class that holds others: class, dtype, size.
    Wrapper,
    /// The result of another function: function, class, arguments, state.
    FromType,
    /// A tensor of a NumPy array or of another tensor: array, dtype.
    FromArray,
    /// An empty NumPy array, whose state says what it holds.
    EmptyArray,
    /// A NumPy array: buffer, dtype, shape, order.
    ArrayOfBuffer,
    /// A NumPy scalar: dtype, bytes.
    Scalar,
    /// Text as bytes.
    Encoded,
    /// Bytes, of nothing or of others.
    Bytes,
    /// A storage that a checkpoint in bytes holds.
    Nested,
    /// A dictionary, list, set or tuple.
    Container,
    /// A value without tensors.
    Plain,
}

/// Known harmless callables: module, name, result of a call.
static KNOWN: &[(&str, &str, Meaning)] = &[
    ("torch._utils", "_rebuild_tensor", Meaning::Tensor),
    ("torch._utils", "_rebuild_tensor_v2", Meaning::Tensor),
    ("torch._utils", "_rebuild_tensor_v3", Meaning::TypedTensor),
    ("torch._utils", "_rebuild_parameter", Meaning::Parameter),
    ("torch._utils", "_rebuild_parameter_with_state", Meaning::Parameter),
    ("torch.nn.parameter", "Parameter", Meaning::Parameter),
    ("torch.nn.parameter", "Buffer", Meaning::Parameter),
    ("torch._utils", "_rebuild_qtensor", Meaning::Quantised),
    ("torch._utils", "_rebuild_sparse_tensor", Meaning::Sparse),
    ("torch._utils", "_rebuild_sparse_csr_tensor", Meaning::Sparse),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", Meaning::Meta),
    ("torch._utils", "_rebuild_wrapper_subclass", Meaning::Wrapper),
    ("torch._tensor", "_rebuild_from_type", Meaning::FromType),
    ("torch._tensor", "_rebuild_from_type_v2", Meaning::FromType),
    ("torch.tensor", "_rebuild_from_type", Meaning::FromType),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", Meaning::FromArray),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", Meaning::FromArray),
    ("torch._utils", "_rebuild_xla_tensor", Meaning::FromArray),
    ("torch._utils", "_rebuild_mlc_tensor", Meaning::FromArray),
    ("numpy.core.multiarray", "_reconstruct", Meaning::EmptyArray),
    ("numpy._core.multiarray", "_reconstruct", Meaning::EmptyArray),
    ("numpy.core.numeric", "_frombuffer", Meaning::ArrayOfBuffer),
    ("numpy._core.numeric", "_frombuffer", Meaning::ArrayOfBuffer),
    ("numpy.core.multiarray", "scalar", Meaning::Scalar),
    ("numpy._core.multiarray", "scalar", Meaning::Scalar),
    ("numpy", "ndarray", Meaning::Plain),
    ("numpy", "dtype", Meaning::Plain),
    ("_codecs", "encode", Meaning::Encoded),
    ("collections", "OrderedDict", Meaning::Container),
    ("collections", "defaultdict", Meaning::Container),
    ("collections", "Counter", Meaning::Container),
    ("collections", "deque", Meaning::Container),
    ("builtins", "dict", Meaning::Container),
    ("builtins", "list", Meaning::Container),
    ("builtins", "set", Meaning::Container),
    ("builtins", "frozenset", Meaning::Container),
    ("builtins", "tuple", Meaning::Container),
    ("__builtin__", "dict", Meaning::Container),
    ("__builtin__", "list", Meaning::Container),
    ("__builtin__", "set", Meaning::Container),
    ("__builtin__", "frozenset", Meaning::Container),
    ("__builtin__", "tuple", Meaning::Container),
    ("torch", "Size", Meaning::Container),
    ("torch", "device", Meaning::Plain),
    ("torch", "Tensor", Meaning::Plain),
    ("torch._tensor", "Tensor", Meaning::Plain),
    ("torch.serialization", "_get_layout", Meaning::Plain),
    ("torch.serialization", "_get_dtype", Meaning::Plain),
    ("builtins", "int", Meaning::Plain),
    ("builtins", "float", Meaning::Plain),
    ("builtins", "bool", Meaning::Plain),
    ("builtins", "str", Meaning::Plain),
    ("builtins", "bytes", Meaning::Bytes),
    ("builtins", "bytearray", Meaning::Bytes),
    ("builtins", "complex", Meaning::Plain),
    ("builtins", "object", Meaning::Plain),
    ("builtins", "slice", Meaning::Plain),
    ("builtins", "range", Meaning::Plain),
    ("__builtin__", "int", Meaning::Plain),
    ("__builtin__", "long", Meaning::Plain),
    ("__builtin__", "float", Meaning::Plain),
    ("__builtin__", "bool", Meaning::Plain),
    ("__builtin__", "str", Meaning::Plain),
    ("__builtin__", "unicode", Meaning::Plain),
    ("__builtin__", "bytes", Meaning::Bytes),
    ("__builtin__", "bytearray", Meaning::Bytes),
    // It would load what is inside with pickle, which is checked as well.
    ("torch.storage", "_load_from_bytes", Meaning::Nested),
    ("__builtin__", "complex", Meaning::Plain),
    ("__builtin__", "object", Meaning::Plain),
    ("copyreg", "_reconstructor", Meaning::Plain),
    ("copy_reg", "_reconstructor", Meaning::Plain),
    ("datetime", "datetime", Meaning::Plain),
    ("datetime", "timedelta", Meaning::Plain),
    ("pathlib", "Path", Meaning::Plain),
    ("pathlib", "PosixPath", Meaning::Plain),
    ("pathlib", "PurePosixPath", Meaning::Plain),
    ("pathlib", "WindowsPath", Meaning::Plain),
    ("argparse", "Namespace", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "Metadata", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "TensorProperties", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "StorageMeta", Meaning::Plain),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING", Meaning::Plain),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo", Meaning::Plain),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix", Meaning::Plain),
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties", Meaning::Plain),
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING", Meaning::Plain),
];

/// Returns what a call makes, if that is known.
pub(crate) fn meaning(global: &Global) -> Option<Meaning> {
    KNOWN.iter().find(|(module, name, _)| *module == global.module && *name == global.name).map(|(_, _, meaning)| *meaning)
}

/// Functions of Python's builtins module that execute code, under both names of the module.
const BUILTINS: &[&str] = &[
    "eval",
    "exec",
    "compile",
    "open",
    "input",
    "__import__",
    "getattr",
    "setattr",
    "delattr",
    "globals",
    "locals",
    "vars",
    "map",
    "filter",
    "apply",
    "execfile",
    "reload",
    "file",
    "raw_input",
    "type",
];

/// Callables that run code, read or write files, open connections, or give access to others that do: module and names; an empty list means all.
/// A module is meant with all below it.
static EXECUTING: &[(&str, &[&str])] = &[
    ("builtins", BUILTINS),
    ("builtins", &["breakpoint", "exit", "quit", "help", "memoryview", "super"]),
    ("__builtin__", BUILTINS),
    ("__builtin__", &["reduce"]),
    ("os", &[]),
    ("posix", &[]),
    ("nt", &[]),
    ("posixpath", &[]),
    ("ntpath", &[]),
    ("sys", &[]),
    ("subprocess", &[]),
    ("_posixsubprocess", &[]),
    ("commands", &[]),
    ("popen2", &[]),
    ("pty", &[]),
    ("shutil", &[]),
    ("importlib", &[]),
    ("imp", &[]),
    ("runpy", &[]),
    ("pkgutil", &[]),
    ("zipimport", &[]),
    ("ctypes", &[]),
    ("_ctypes", &[]),
    ("cffi", &[]),
    ("code", &[]),
    ("codeop", &[]),
    ("types", &["CodeType", "FunctionType", "LambdaType", "MethodType"]),
    ("functools", &["partial", "partialmethod", "reduce"]),
    ("_functools", &[]),
    ("operator", &["attrgetter", "methodcaller", "itemgetter", "call"]),
    ("_operator", &["attrgetter", "methodcaller", "itemgetter", "call"]),
    ("pickle", &[]),
    ("_pickle", &[]),
    ("cPickle", &[]),
    ("dill", &[]),
    ("cloudpickle", &[]),
    ("joblib", &["load"]),
    ("marshal", &[]),
    ("shelve", &[]),
    ("pdb", &[]),
    ("bdb", &[]),
    ("timeit", &[]),
    ("trace", &[]),
    ("profile", &[]),
    ("cProfile", &[]),
    ("doctest", &[]),
    ("unittest", &[]),
    ("test", &[]),
    ("pydoc", &[]),
    ("idlelib", &[]),
    ("lib2to3", &[]),
    ("distutils", &[]),
    ("setuptools", &[]),
    ("pip", &[]),
    ("ensurepip", &[]),
    ("venv", &[]),
    ("asyncio", &[]),
    ("multiprocessing", &[]),
    ("concurrent", &[]),
    ("threading", &[]),
    ("_thread", &[]),
    ("signal", &[]),
    ("socket", &[]),
    ("_socket", &[]),
    ("ssl", &[]),
    ("http", &[]),
    ("httplib", &[]),
    ("urllib", &[]),
    ("urllib2", &[]),
    ("requests", &[]),
    ("aiohttp", &[]),
    ("httpx", &[]),
    ("ftplib", &[]),
    ("smtplib", &[]),
    ("telnetlib", &[]),
    ("poplib", &[]),
    ("imaplib", &[]),
    ("nntplib", &[]),
    ("xmlrpc", &[]),
    ("webbrowser", &[]),
    ("uuid", &["_get_command_stdout", "_popen"]),
    ("io", &[]),
    ("_io", &[]),
    ("tempfile", &[]),
    ("fileinput", &[]),
    ("linecache", &[]),
    ("glob", &[]),
    ("zipfile", &[]),
    ("tarfile", &[]),
    ("sqlite3", &[]),
    ("gc", &[]),
    ("inspect", &[]),
    ("logging", &["FileHandler"]),
    ("logging.config", &[]),
    ("platform", &["popen", "_syscmd_ver", "_syscmd_file"]),
    ("numpy.testing", &[]),
    ("numpy.f2py", &[]),
    ("numpy.distutils", &[]),
    ("numpy", &["load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap", "save", "savez", "savetxt", "tofile"]),
    ("pandas", &["read_pickle", "eval"]),
    ("torch", &["load", "save", "compile"]),
    ("torch.hub", &[]),
    ("torch.serialization", &["load", "save", "_load", "_legacy_load"]),
    ("torch.jit", &["load", "_load_for_lite_interpreter"]),
    ("torch.utils.cpp_extension", &[]),
    ("torch.utils.model_zoo", &[]),
    ("torch.utils.collect_env", &[]),
    ("torch.utils.bottleneck", &[]),
    ("torch.utils.data.datapipes", &[]),
    ("torch.utils._config_module", &[]),
    ("torch._dynamo", &[]),
    ("torch._inductor", &[]),
    ("torch.distributed.launcher", &[]),
    ("torch.distributed.run", &[]),
    ("torch.multiprocessing", &[]),
    ("torch.package", &[]),
    ("torch.fx.experimental.symbolic_shapes", &[]),
    ("torch.ops", &[]),
    ("torch.classes", &[]),
];

/// Returns the severity of naming a class or function: `None` if it is harmless, an error if it executes something, a warning if it is not
/// known.
pub(crate) fn severity(global: &Global) -> Option<Severity> {
    if executes(&global.module, &global.name) {
        return Some(Severity::Error);
    }
    let plain = !global.name.contains('.');
    let harmless = plain
        && (meaning(global).is_some()
            || storage(global).is_some()
            || is_torch_constant(global)
            || (global.module.starts_with("torch.nn.modules.") && is_class(&global.name))
            || global.module.starts_with("__torch__"));
    (!harmless).then_some(Severity::Warning)
}

/// Whether a name is that of a class by Python's convention: modules have imported functions as well.
fn is_class(name: &str) -> bool {
    name.trim_start_matches('_').starts_with(|first: char| first.is_ascii_uppercase())
}

fn executes(module: &str, name: &str) -> bool {
    let below = |known: &str| module == known || module.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
    let listed = |(known, names): &(&str, &[&str])| {
        below(known)
            && (names.is_empty() || (module == *known && names.iter().any(|own| *own == name || name.starts_with(&format!("{own}.")))))
    };
    if module == EXTENSIONS {
        return true;
    }
    // A dotted name goes through attributes: `torch`, `serialization.os.system`.
    let mut through = name.split('.').rev().skip(1);
    EXECUTING.iter().any(listed) || through.any(|part| EXECUTING.iter().any(|(known, names)| *known == part && names.is_empty()))
}

/// Whether this is a dtype, a layout, a scheme of quantisation, or another constant of `torch`.
fn is_torch_constant(global: &Global) -> bool {
    const OTHERS: &[&str] = &[
        "strided",
        "sparse_coo",
        "sparse_csr",
        "sparse_csc",
        "sparse_bsr",
        "sparse_bsc",
        "per_tensor_affine",
        "per_tensor_symmetric",
        "per_channel_affine",
        "per_channel_symmetric",
        "per_channel_affine_float_qparams",
        "contiguous_format",
        "channels_last",
        "preserve_format",
    ];
    global.module == "torch" && (kind_of_dtype(&global.name).is_some() || OTHERS.contains(&global.name.as_str()))
}

/// Returns the type that a dtype of PyTorch names: `float32`, or any of its aliases.
pub(crate) fn kind_of_dtype(name: &str) -> Option<Kind> {
    let quantised = |dtype, width| Kind { quantised: true, ..Kind::known(dtype, width) };
    Some(match name {
        "float32" | "float" => Kind::known(DType::F32, 4),
        "float64" | "double" => Kind::known(DType::F64, 8),
        "float16" | "half" => Kind::known(DType::F16, 2),
        "bfloat16" => Kind::known(DType::BF16, 2),
        "int8" => Kind::known(DType::I8, 1),
        "int16" | "short" => Kind::known(DType::I16, 2),
        "int32" | "int" => Kind::known(DType::I32, 4),
        "int64" | "long" => Kind::known(DType::I64, 8),
        "uint8" => Kind::known(DType::U8, 1),
        "uint16" => Kind::known(DType::U16, 2),
        "uint32" => Kind::known(DType::U32, 4),
        "uint64" => Kind::known(DType::U64, 8),
        "bool" => Kind::known(DType::BOOL, 1),
        "complex64" | "cfloat" => Kind { number: 4, ..Kind::known(DType::C64, 8) },
        "complex32" | "chalf" => return Kind::unknown("C32", 4, 2),
        "complex128" | "cdouble" => return Kind::unknown("C128", 16, 8),
        "float8_e4m3fn" => Kind::known(DType::F8_E4M3, 1),
        "float8_e5m2" => Kind::known(DType::F8_E5M2, 1),
        "float8_e4m3fnuz" => Kind::known(DType::F8_E4M3FNUZ, 1),
        "float8_e5m2fnuz" => Kind::known(DType::F8_E5M2FNUZ, 1),
        "float8_e8m0fnu" => Kind::known(DType::F8_E8M0, 1),
        "float4_e2m1fn_x2" => Kind { packed: 2, ..Kind::known(DType::F4, 1) },
        "qint8" => quantised(DType::I8, 1),
        "quint8" => quantised(DType::U8, 1),
        "qint32" => quantised(DType::I32, 4),
        "quint4x2" | "quint2x4" | "bits1x8" | "bits2x4" | "bits4x2" | "bits8" => return Kind::unknown(name, 1, 1),
        "bits16" => return Kind::unknown(name, 2, 2),
        _ => {
            // int1 to int7, uint1 to uint7: one byte each.
            let bits = name.strip_prefix('u').unwrap_or(name).strip_prefix("int")?;
            if !matches!(bits, "1" | "2" | "3" | "4" | "5" | "6" | "7") {
                return None;
            }
            return Kind::unknown(name, 1, 1);
        }
    })
}

/// The class of a storage: of a type, or of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum StorageClass {
    Typed(Kind),
    Bytes,
}

/// Returns the class of a storage by its name, in `torch` or below it.
pub(crate) fn storage(global: &Global) -> Option<StorageClass> {
    if global.module != "torch" && !global.module.starts_with("torch.") {
        return None;
    }
    let dtype = match global.name.strip_suffix("Storage")? {
        "Untyped" => return Some(StorageClass::Bytes),
        "Float" => "float32",
        "Double" => "float64",
        "Half" => "float16",
        "BFloat16" => "bfloat16",
        "Long" => "int64",
        "Int" => "int32",
        "Short" => "int16",
        "Char" => "int8",
        "Byte" => "uint8",
        "Bool" => "bool",
        "ComplexFloat" => "complex64",
        "ComplexDouble" => "complex128",
        "QInt8" => "qint8",
        "QUInt8" => "quint8",
        "QInt32" => "qint32",
        "QUInt4x2" => "quint4x2",
        "QUInt2x4" => "quint2x4",
        _ => return None,
    };
    kind_of_dtype(dtype).map(StorageClass::Typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(module: &str, name: &str) -> Global {
        Global { module: module.to_owned(), name: name.to_owned(), at: 0 }
    }

    #[test]
    fn what_executes_is_an_error_and_what_is_unknown_a_warning() {
        for (module, name) in [
            ("os", "system"),
            ("os.path", "join"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch", "serialization.os.system"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("subprocess", "Popen"),
            ("torch.serialization", "load"),
            ("builtins", "eval.__call__"),
        ] {
            assert_eq!(severity(&global(module, name)), Some(Severity::Error), "{module}.{name}");
        }
        for (module, name) in [("my.module", "Class"), ("torch", "other"), ("osx", "system"), ("collections", "OrderedDict.fromkeys")] {
            assert_eq!(severity(&global(module, name)), Some(Severity::Warning), "{module}.{name}");
        }
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch", "FloatStorage"),
            ("torch.cuda", "HalfStorage"),
            ("torch", "bfloat16"),
            ("torch.nn.modules.linear", "Linear"),
            ("torch._utils", "_rebuild_tensor_v2"),
        ] {
            assert_eq!(severity(&global(module, name)), None, "{module}.{name}");
        }
    }

    #[test]
    fn names_of_types_stand_for_types_of_their_size() {
        for (name, elem, width) in [("float8_e4m3fn", "F8_E4M3", 1), ("complex32", "C32", 4), ("uint5", "uint5", 1), ("chalf", "C32", 4)] {
            let kind = kind_of_dtype(name).unwrap();
            assert_eq!((kind.elem.to_string().as_str(), kind.width), (elem, width));
        }
        assert_eq!(kind_of_dtype("int9"), None);
        assert_eq!(storage(&global("torch.cuda", "BFloat16Storage")), Some(StorageClass::Typed(kind_of_dtype("bfloat16").unwrap())));
        assert_eq!(storage(&global("os", "FloatStorage")), None);
    }
}
