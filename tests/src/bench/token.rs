//! A token that is good until the year 2100, and the key that verifies it. The key that signed it was thrown away: making
//! one takes seconds where instructions are counted.

pub const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEApHRELg468/xnQozh8il7
sbvB+ncLbiMOtvnROaeY0MCt4OM7wvwz6QOQkEZgRJ2W2SsKvWkGEoeSKpbE8OBw
r9FFa/EXpi4Vx73ijWmIUREEYqEEKtSZVcku3Y6j4pXp2Eh5zoFZgbf6j1cXu1SE
MkBjAF1f2/Jhp9Ket74ON1A3jnwLSC8MOUmyHKV7pSrb/zn2sYnituz/oRUFTPJ/
aIt4zO4wS7rhetsKzUk/3CO3KxzNyxXjOWQeD18KxtKUTWOWnEMdTb5thn5qAvcE
XjQ2BhG2Hi0Y5qf/VB6qf4KMovocoYnTt1TqyuemQtct8P0t2U/IzKgD6kGTtUz6
aQIDAQAB
-----END PUBLIC KEY-----
";

pub const TOKEN: &str = "\
    eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImJlbmNoIn0.eyJpc3MiOiJodHRwczovL2F1dGgiLCJzdWIiOiJvcmRl\
    ci1zZXJ2aWNlIiwiYXVkIjoidXNlci1zZXJ2aWNlIiwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjQxMDI0NDQ4MDAsImp0aSI6ImIx\
    OTQ2YWM5LTI0OTItNGQyMy04ZjNhLTFjY2U0YTdiMWUwZCJ9.WwKOrFQDtPs0J2EecExI78cLHI_CbAFLmDluxlsMRGg9sEvR5MT\
    PhHomvwIh3VmYypT6gP0rOcpsPDUSq5IU5DLBo_yc0BZSXUeuESJP8ne6ICuQ7u1gmVkTypZRTORxDfdLeNBYE3lM7SVSoNaiL5v\
    7oDsKYGRpz1ZOyhmkNCcq_w-l_ok5ES-T_QpX7tBjAgY8tlAOBuRqnez5jN456a3Tns7da4CUZGb3icPF1cvKOv3lRj2xoGy5Gv2\
    HCwwK6NfkWp8PLzht1dTzFCCNwBoM9V6E9cNR-3eowgfOwRLxfy-VqHJzhYVErAhBuWct4W6hmJtPRWrs5FJOSGENCg";
