// Who may do what. Everybody is `anonymous` here and everything is allowed; tests put other policies in.
// Every question is answered by null (yes) or by {code, hint}.

export const ANYTHING = {
  subscribe: (_stream) => null,
  publish: (_stream) => null,
  message: (_stream, _payload) => null,
  authenticate: (_token) => null,
};
