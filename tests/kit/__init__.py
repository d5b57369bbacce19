"""What the tests share: runners, toy parts and helpers; no test module imports another one."""
