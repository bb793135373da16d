// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Test } from "../base/Test.sol";

/// @notice The part of halmos' own cheatcodes that is used here.
interface Svm {
    function enableSymbolicStorage(address account) external;
}

/// @notice Base of every symbolic check: functions named `check_`, run by `make analyse` for all values of their
/// arguments at once. An assertion that some value breaks is reported with that value.
abstract contract SymbolicTest is Test {
    Svm internal constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
}
