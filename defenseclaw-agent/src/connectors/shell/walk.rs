//! Every command and redirection of parsed shell text, wherever it stands: in lists, compound commands, functions,
//! and in the substitutions of any word.

use shuck_ast::{
    ArithmeticExprNode, ArrayElem, Assignment, AssignmentValue, BuiltinCommand, Command, CompoundCommand,
    ConditionalExpr, DeclOperand, File, HeredocBodyPart, ParameterExpansion, Redirect, RedirectKind, Stmt,
    StmtSeq, Word, WordPart, WordPartNode,
};

use super::{programs, value};
use crate::{
    connectors::patch,
    model::{Intent, Target},
};

pub(super) struct Walk<'a> {
    pub(super) source: &'a str,
    pub(super) layers: u8,
    pub(super) found: &'a mut Vec<Intent>,
    /// A command before may have changed the directory.
    pub(super) moved: bool,
}

pub(super) fn file(source: &str, file: &File, layers: u8, moved: bool, found: &mut Vec<Intent>) {
    Walk { source, layers, found, moved }.list(&file.body);
}

impl Walk<'_> {
    fn list(&mut self, list: &StmtSeq) {
        list.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt) {
        match &statement.command {
            Command::Simple(simple) => {
                self.assignments(&simple.assignments);
                self.word(&simple.name);
                self.words(&simple.args);
                let mut words = vec![self.target(&simple.name)];
                words.extend(simple.args.iter().map(|word| self.target(word)));
                self.command(&words, &statement.redirects);
            }
            Command::Builtin(builtin) => {
                let (first, rest, assignments) = match builtin {
                    BuiltinCommand::Break(it) => (&it.depth, &it.extra_args, &it.assignments),
                    BuiltinCommand::Continue(it) => (&it.depth, &it.extra_args, &it.assignments),
                    BuiltinCommand::Return(it) => (&it.code, &it.extra_args, &it.assignments),
                    BuiltinCommand::Exit(it) => (&it.code, &it.extra_args, &it.assignments),
                };
                self.assignments(assignments);
                self.words(first);
                self.words(rest);
            }
            Command::Decl(declaration) => {
                self.assignments(&declaration.assignments);
                for operand in &declaration.operands {
                    match operand {
                        DeclOperand::Flag(word) | DeclOperand::Dynamic(word) => self.word(word),
                        DeclOperand::Assignment(assignment) => {
                            self.assignments(std::slice::from_ref(assignment));
                        }
                        DeclOperand::Name(_) => {}
                    }
                }
            }
            Command::Binary(binary) => {
                self.statement(&binary.left);
                self.statement(&binary.right);
            }
            Command::Compound(compound) => self.compound(compound),
            // A function is listed where it stands: when it is called nobody can say.
            Command::Function(function) => self.statement(&function.body),
            Command::AnonymousFunction(function) => {
                self.words(&function.args);
                self.statement(&function.body);
            }
        }
        statement.redirects.iter().for_each(|redirect| self.redirect(redirect));
    }

    fn compound(&mut self, compound: &CompoundCommand) {
        match compound {
            CompoundCommand::If(it) => {
                self.list(&it.condition);
                self.list(&it.then_branch);
                for (condition, branch) in &it.elif_branches {
                    self.list(condition);
                    self.list(branch);
                }
                it.else_branch.iter().for_each(|branch| self.list(branch));
            }
            CompoundCommand::For(it) => {
                it.words.iter().for_each(|words| self.words(words));
                self.list(&it.body);
            }
            CompoundCommand::Foreach(it) => {
                self.words(&it.words);
                self.list(&it.body);
            }
            CompoundCommand::Select(it) => {
                self.words(&it.words);
                self.list(&it.body);
            }
            CompoundCommand::Repeat(it) => {
                self.word(&it.count);
                self.list(&it.body);
            }
            CompoundCommand::ArithmeticFor(it) => {
                self.arithmetic([&it.init_ast, &it.condition_ast, &it.step_ast].into_iter().flatten());
                self.list(&it.body);
            }
            CompoundCommand::While(it) => {
                self.list(&it.condition);
                self.list(&it.body);
            }
            CompoundCommand::Until(it) => {
                self.list(&it.condition);
                self.list(&it.body);
            }
            CompoundCommand::Case(it) => {
                self.word(&it.word);
                it.cases.iter().for_each(|case| self.list(&case.body));
            }
            CompoundCommand::Subshell(list) | CompoundCommand::BraceGroup(list) => self.list(list),
            CompoundCommand::Arithmetic(it) => self.arithmetic(it.expr_ast.iter()),
            CompoundCommand::Time(it) => it.command.iter().for_each(|command| self.statement(command)),
            CompoundCommand::Conditional(it) => self.condition(&it.expression),
            CompoundCommand::Coproc(it) => self.statement(&it.body),
            CompoundCommand::Always(it) => {
                self.list(&it.body);
                self.list(&it.always_body);
            }
        }
    }

    fn condition(&mut self, condition: &ConditionalExpr) {
        match condition {
            ConditionalExpr::Binary(it) => {
                self.condition(&it.left);
                self.condition(&it.right);
            }
            ConditionalExpr::Unary(it) => self.condition(&it.expr),
            ConditionalExpr::Parenthesized(it) => self.condition(&it.expr),
            ConditionalExpr::Word(word) | ConditionalExpr::Regex(word) => self.word(word),
            ConditionalExpr::Pattern(_) | ConditionalExpr::VarRef(_) => {}
        }
    }

    /// Arithmetic runs commands only in substitutions; one that has any is said to be unread.
    fn arithmetic<'b>(&mut self, expressions: impl Iterator<Item = &'b ArithmeticExprNode>) {
        for expression in expressions {
            let text = expression.span.slice(self.source);
            if text.contains("$(") || text.contains('`') {
                self.found.push(Intent::Unparsed("a command in an arithmetic expression".to_owned()));
            }
        }
    }

    fn assignments(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            match &assignment.value {
                AssignmentValue::Scalar(word) => self.word(word),
                AssignmentValue::Compound(array) => {
                    array.elements.iter().map(ArrayElem::value).for_each(|value| self.word(&value.word));
                }
            }
        }
    }

    fn redirect(&mut self, redirect: &Redirect) {
        if let Some(heredoc) = redirect.heredoc() {
            for part in &heredoc.body.parts {
                match &part.kind {
                    HeredocBodyPart::CommandSubstitution { body, .. } => self.list(body),
                    HeredocBodyPart::ArithmeticExpansion { expression_word_ast, .. } => {
                        self.word(expression_word_ast);
                    }
                    HeredocBodyPart::Parameter(parameter) => self.parameter(parameter),
                    HeredocBodyPart::Literal(_) | HeredocBodyPart::Variable(_) => {}
                }
            }
        }
        let Some(word) = redirect.word_target() else { return };
        self.word(word);
        let path = self.path(word);
        let is_descriptor = path.text == "-" || path.text.bytes().all(|byte| byte.is_ascii_digit());
        match redirect.kind {
            RedirectKind::Output
            | RedirectKind::Clobber
            | RedirectKind::Append
            | RedirectKind::OutputBoth => {
                self.found.push(Intent::Write(path));
            }
            RedirectKind::DupOutput if !is_descriptor => self.found.push(Intent::Write(path)),
            RedirectKind::Input => self.found.push(Intent::Read(path)),
            RedirectKind::ReadWrite => {
                self.found.extend([Intent::Read(path.clone()), Intent::Write(path)]);
            }
            RedirectKind::DupOutput
            | RedirectKind::DupInput
            | RedirectKind::HereDoc
            | RedirectKind::HereDocStrip
            | RedirectKind::HereString => {}
        }
    }

    fn words<'b>(&mut self, words: impl IntoIterator<Item = &'b Word>) {
        words.into_iter().for_each(|word| self.word(word));
    }

    /// The commands in a word.
    fn word(&mut self, word: &Word) {
        word.parts.iter().for_each(|part| self.part(part));
    }

    fn part(&mut self, part: &WordPartNode) {
        match &part.kind {
            WordPart::DoubleQuoted { parts, .. } => parts.iter().for_each(|part| self.part(part)),
            WordPart::CommandSubstitution { body, .. } | WordPart::ProcessSubstitution { body, .. } => {
                self.list(body);
            }
            WordPart::ArithmeticExpansion { expression_word_ast, .. } => self.word(expression_word_ast),
            WordPart::Parameter(parameter) => self.parameter(parameter),
            WordPart::ParameterExpansion { operand_word_ast, .. }
            | WordPart::IndirectExpansion { operand_word_ast, .. } => {
                self.words(operand_word_ast.as_deref());
            }
            WordPart::Substring { offset_word_ast, length_word_ast, .. }
            | WordPart::ArraySlice { offset_word_ast, length_word_ast, .. } => {
                self.word(offset_word_ast);
                self.words(length_word_ast.as_deref());
            }
            WordPart::Literal(_)
            | WordPart::ZshQualifiedGlob(_)
            | WordPart::SingleQuoted { .. }
            | WordPart::Variable(_)
            | WordPart::Length(_)
            | WordPart::ArrayAccess(_)
            | WordPart::ArrayLength(_)
            | WordPart::ArrayIndices(_)
            | WordPart::PrefixMatch { .. }
            | WordPart::Transformation { .. } => {}
        }
    }

    fn parameter(&mut self, parameter: &ParameterExpansion) {
        let Some(bourne) = parameter.bourne() else { return };
        let words = [bourne.operand_word_ast(), bourne.offset_word_ast(), bourne.length_word_ast()];
        words.into_iter().flatten().for_each(|word| self.word(word));
    }

    /// One command with its words, and what it is known to do.
    fn command(&mut self, words: &[Target], redirects: &[Redirect]) {
        let patch = words.first().and_then(Target::value) == Some("apply_patch");
        if patch {
            // Some agents run this one themselves, from the command's text.
            let body =
                redirects.iter().find_map(Redirect::heredoc).map(|heredoc| heredoc.body.render(self.source));
            let body = body.or_else(|| words.get(1).and_then(Target::value).map(str::to_owned));
            self.found.extend(body.iter().flat_map(|body| patch::intents(body)));
        }
        programs::command(self, words);
    }

    /// A word as a command gets it.
    fn target(&self, word: &Word) -> Target {
        value::of(word, self.source)
            .map_or_else(|| Target::unknown(word.render_syntax(self.source)), Target::known)
    }

    /// A word as a path: relative ones are unknown once the directory may have changed.
    fn path(&self, word: &Word) -> Target {
        self.settle(self.target(word))
    }

    pub(super) fn settle(&self, mut path: Target) -> Target {
        path.unknown |= self.moved && !path.text.starts_with(['/', '~']);
        path
    }
}
