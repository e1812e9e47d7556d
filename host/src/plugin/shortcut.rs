//! A shorter way from the host to a component's hooks.
//!
//! wasmtime 48 looks the core function behind a component's function up at each call, which takes a third of what calling
//! a hook takes; unless the core instance that exports it has imported it itself, for then it is there to be read. So each
//! component gets one small module more, which imports the hooks of its main module and exports them again, and the
//! component's own functions are made of these. No code is added, and nothing else is changed.
//!
//! wasmtime 49 remembers what it has found. It needs rustc 1.96; once that is what we build with, this file can go.

use super::bindings::PACKAGE;
use wasm_encoder::{
    Alias, ComponentAliasSection, ComponentSection, EntityType, ExportKind, ExportSection, ImportSection,
    InstanceSection, Module, ModuleArg, ModuleSection, TypeSection, ValType,
};
use wasmparser::{
    Chunk, ComponentAlias, ComponentAliasSectionReader, ComponentExport, ComponentExternalKind, ComponentImport,
    ComponentOuterAliasKind, ComponentTypeRef, ExternalKind, FromReader, FuncType, Instance, Parser, Payload,
    SectionLimited,
};

/// Tells code that was compiled with it from code that was not.
pub const NAME: &str = "shortcut 1";

/// The contract has fewer hooks. Nobody has validated the file yet, and it may name one a million times.
const MAX_HOOKS: usize = 64;

/// The component with that module in it. `None` where it is not laid out as linkers do; it is called the longer way.
pub fn shortened(component: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::read(component)?;
    let glue = layout.glue()?;
    let mut shortened = component.get(..layout.exports_at)?.to_vec();
    let mut instances = InstanceSection::new();
    instances.instantiate(layout.modules.len() as u32, [("", ModuleArg::Instance(layout.main))]);
    append(&mut shortened, &ModuleSection(&glue));
    append(&mut shortened, &instances);
    for section in &layout.exports {
        match section {
            Section::Hooks(functions) => {
                let mut aliases = ComponentAliasSection::new();
                for (instance, name) in functions {
                    let instance = if is_hook(name) { layout.instances.len() as u32 } else { *instance };
                    aliases.alias(Alias::CoreInstanceExport { instance, kind: ExportKind::Func, name });
                }
                append(&mut shortened, &aliases);
            }
            Section::Other(bytes) => shortened.extend_from_slice(bytes),
        }
    }
    Some(shortened)
}

fn append(component: &mut Vec<u8>, section: &impl ComponentSection) {
    component.push(section.id());
    section.encode(component);
}

fn is_hook(name: &str) -> bool {
    name.strip_prefix(PACKAGE).is_some_and(|rest| rest.starts_with('/'))
}

/// What of a component matters here. It imports, then instantiates its modules, and then makes its exports.
struct Layout<'a> {
    modules: Vec<&'a [u8]>,
    /// The module of each core instance that is one of a module.
    instances: Vec<Option<u32>>,
    /// The core instance that has the hooks.
    main: u32,
    /// Where the section with the first of them begins, and all from there.
    exports_at: usize,
    exports: Vec<Section<'a>>,
}

enum Section<'a> {
    /// Names for functions of core instances, hooks among them.
    Hooks(Vec<(u32, &'a str)>),
    Other(&'a [u8]),
}

impl<'a> Layout<'a> {
    fn read(component: &'a [u8]) -> Option<Self> {
        let (mut parser, mut at) = (Parser::new(0), 0);
        let (mut modules, mut instances, mut exports) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = None;
        loop {
            let Chunk::Parsed { consumed, payload } = parser.parse(component.get(at..)?, true).ok()? else {
                return None;
            };
            let (start, mut hooks) = (at, None);
            at += consumed;
            if names_a_module(&payload)? {
                return None;
            }
            match payload {
                Payload::End(_) => break,
                Payload::ModuleSection { unchecked_range, .. } if first.is_none() => {
                    at = unchecked_range.end;
                    modules.push(component.get(unchecked_range)?);
                }
                Payload::InstanceSection(section) if first.is_none() => {
                    for instance in section {
                        instances.push(match instance.ok()? {
                            Instance::Instantiate { module_index, .. } => Some(module_index),
                            Instance::FromExports(_) => None,
                        });
                    }
                }
                // Their numbers would be others.
                Payload::ModuleSection { .. } | Payload::InstanceSection(_) => return None,
                Payload::ComponentSection { unchecked_range, .. } => at = unchecked_range.end,
                Payload::ComponentAliasSection(section) => hooks = functions(section),
                _ => {}
            }
            if let Some((main, _)) = hooks.iter().flatten().find(|(_, name)| is_hook(name)) {
                first.get_or_insert((*main, start));
            }
            if first.is_some() {
                exports.push(match hooks {
                    Some(functions) => Section::Hooks(functions),
                    None => Section::Other(component.get(start..at)?),
                });
            }
        }
        let (main, exports_at) = first?;
        Some(Self { modules, instances, main, exports_at, exports })
    }

    /// The names of the hooks. `None` where there are too many, or not all are the main module's.
    fn hooks(&self) -> Option<Vec<&'a str>> {
        let mut hooks = Vec::new();
        for section in &self.exports {
            let Section::Hooks(functions) = section else { continue };
            for (instance, name) in functions.iter().filter(|(_, name)| is_hook(name)) {
                if *instance != self.main || hooks.len() == MAX_HOOKS {
                    return None;
                }
                hooks.push(*name);
            }
        }
        Some(hooks)
    }

    /// Imports the hooks, by their names, and exports them.
    fn glue(&self) -> Option<Module> {
        let hooks = self.hooks()?;
        let main = self.instances.get(self.main as usize).copied()??;
        let signatures = signatures(self.modules.get(main as usize)?, &hooks)?;
        let (mut types, mut imports, mut exports) = (TypeSection::new(), ImportSection::new(), ExportSection::new());
        for name in hooks {
            let (_, ty) = signatures.iter().find(|(exported, _)| *exported == name)?;
            exports.export(name, ExportKind::Func, imports.len());
            imports.import("", name, EntityType::Function(types.len()));
            types.ty().function(values(ty.params())?, values(ty.results())?);
        }
        let mut glue = Module::new();
        glue.section(&types).section(&imports).section(&exports);
        Some(glue)
    }
}

/// Whether a section gives a number to a core module that is somewhere else. It would have to be counted with the others.
fn names_a_module(payload: &Payload<'_>) -> Option<bool> {
    fn any<'a, T: FromReader<'a>>(section: &SectionLimited<'a, T>, is: impl Fn(&T) -> bool) -> Option<bool> {
        for item in section.clone() {
            if is(&item.ok()?) {
                return Some(true);
            }
        }
        Some(false)
    }
    match payload {
        Payload::ComponentImportSection(section) => {
            any(section, |import: &ComponentImport<'_>| matches!(import.ty, ComponentTypeRef::Module(_)))
        }
        Payload::ComponentExportSection(section) => {
            any(section, |export: &ComponentExport<'_>| export.kind == ComponentExternalKind::Module)
        }
        Payload::ComponentAliasSection(section) => any(section, |alias| {
            matches!(
                alias,
                ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. }
                    | ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. }
            )
        }),
        _ => Some(false),
    }
}

/// If it is functions of core instances that a section gives names to: the instances, and what each is called there.
fn functions(section: ComponentAliasSectionReader<'_>) -> Option<Vec<(u32, &str)>> {
    let function = |alias| match alias {
        Ok(ComponentAlias::CoreInstanceExport { kind: ExternalKind::Func, instance_index, name }) => {
            Some((instance_index, name))
        }
        _ => None,
    };
    section.into_iter().map(function).collect()
}

/// The functions of these names that a core module exports.
fn signatures<'a>(module: &'a [u8], names: &[&str]) -> Option<Vec<(&'a str, FuncType)>> {
    let (mut types, mut functions, mut exported) = (Vec::new(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::TypeSection(section) => {
                types = section.into_iter_err_on_gc_types().collect::<Result<_, _>>().ok()?;
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let wasmparser::TypeRef::Func(ty) = import.ok()?.ty {
                        functions.push(ty);
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    functions.push(ty.ok()?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.ok()?;
                    if export.kind == ExternalKind::Func && names.contains(&export.name) {
                        exported.push((export.name, export.index));
                    }
                    if exported.len() > names.len() {
                        return None;
                    }
                }
            }
            // The code comes after all of these.
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    let signature = |index| types.get(*functions.get(index as usize)? as usize).cloned();
    exported.into_iter().map(|(name, index)| Some((name, signature(index)?))).collect()
}

/// What hooks take and give at this level are numbers.
fn values(types: &[wasmparser::ValType]) -> Option<Vec<ValType>> {
    let value = |ty: &wasmparser::ValType| match ty {
        wasmparser::ValType::I32 => Some(ValType::I32),
        wasmparser::ValType::I64 => Some(ValType::I64),
        wasmparser::ValType::F32 => Some(ValType::F32),
        wasmparser::ValType::F64 => Some(ValType::F64),
        _ => None,
    };
    types.iter().map(value).collect()
}
